"""The record of a run, `run.json`: its resolved configuration, versions and machine, written before its first step."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hf_radial.internals.trainer_parts import output_folder, trial_of
from hf_radial.plugins import packages
from hf_radial.safe_files import write_text

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    from hf_radial.penalty.config import RadialConfig
    from hf_radial.penalty.radial_penalty import RadialPenalty

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"
PACKAGES = ("hf_radial", "torch", "transformers", "accelerate", "datasets", "evaluate", "safetensors", "numpy")


class RadialRun(Protocol):
    """What a record and a model card read of a trainer with the penalty."""

    args: TrainingArguments
    model: Any
    state: TrainerState
    radial_config: RadialConfig
    radial_penalty: RadialPenalty | None
    run_facts: dict[str, Any]


def run_folder(trainer: Any) -> Path:
    """Where a trainer's run is written: its output directory, or in a search of hyperparameters the trial's."""
    return output_folder(trainer, trial_of(trainer))


def write_run_record(trainer: RadialRun) -> None:
    """Write `run.json` into the run's folder."""
    record = describe_run(trainer)
    write_text(run_folder(trainer) / RUN_FILE, json.dumps(record, indent=2, default=str) + "\n")


def describe_run(trainer: RadialRun) -> dict[str, Any]:
    """The run as JSON can hold it. The trainer's `run_facts` (the task, the data, ...) go in as they are."""
    penalty = trainer.radial_penalty
    model: Any = trainer.model
    config: Any = getattr(model, "config", None)
    return {
        "trainer": type(trainer).__name__,
        "radial": {
            **trainer.radial_config.to_dict(),
            "variant": trainer.radial_config.variant,
            "sites": [] if penalty is None else [{**asdict(s), "target": penalty.targets.get(s.name)} for s in penalty.sites],
        },
        "facts": trainer.run_facts,
        "model": {
            "class": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "config": config.to_diff_dict() if hasattr(config, "to_diff_dict") else None,
        },
        "training_args": trainer.args.to_dict(),
        "processes": trainer.args.world_size,
        "environment": describe_environment(),
    }


def describe_environment() -> dict[str, Any]:
    """Versions of the packages that matter and of plug-ins, the machine, and the revision of this package in a checkout."""
    import torch

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    versions |= packages()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()
    # Preloaded libraries, such as allocators, may change speed and rounding.
    preloaded = [Path(name).name for name in re.split(r"[ :]+", os.environ.get("LD_PRELOAD", "")) if name]
    return {
        "versions": {"python": platform.python_version(), **versions},
        "revision": _revision(),
        "machine": {"system": platform.platform(), "device": device, "torch_threads": torch.get_num_threads()}
        | ({"preloaded": preloaded} if preloaded else {}),
        "command": _command(),
    }


def made_on(environment: dict[str, Any]) -> str | None:
    """In words, the machine of a run, from what `describe_environment` returned; `None` if it is not recorded.

    >>> made_on({"machine": {"device": "a CPU", "preloaded": ["lib.so"]}, "versions": {"torch": "2.13.0"}})
    'a CPU, torch 2.13.0, lib.so preloaded'
    """
    if "machine" not in environment:
        return None
    machine, versions = environment["machine"], environment["versions"]
    words = [machine["device"], f"torch {versions['torch']}", *(f"{name} preloaded" for name in machine.get("preloaded", ()))]
    return ", ".join(words)


def all_made_on(environments: Iterable[dict[str, Any]]) -> str:
    """A sentence: the machines and the revisions of several runs."""
    machines, revisions = zip(*((str(made_on(one)), str(one["revision"])) for one in environments), strict=True)
    return f"Made on {'; '.join(sorted({*machines}))}; revision {', '.join(sorted({*revisions}))}."


def _command() -> str:
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    for i, word in enumerate(words):  # a record travels to the Hub: no secret in it
        name, equals, _ = word.partition("=")
        if name.startswith("--") and "token" in name:
            if equals:
                words[i] = f"{name}=***"
            elif i + 1 < len(words):
                words[i + 1] = "***"
    return shlex.join(words)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision() -> str | None:
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=5, check=False).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's checkout.
        if git("rev-parse", "--show-toplevel") != str(root):
            return None
        return git("describe", "--always", "--dirty") or None
    except (OSError, subprocess.TimeoutExpired):
        return None
