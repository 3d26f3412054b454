"""How fast (a+b) mod 97 is learned from a cold process, and by which set-up: what recipes/configs/modular_fast.yaml rests on.

    python recipes/fast_choice.py            # minutes; writes recipes/results/fast_choice.json and fast_choice.md

Every run is `recipes/modular.py --preset modular_fast` with the options of its arm, in a process of its own that finds empty
caches; seed k draws the weights, the order of the batches and the split. *Seconds* are those of the whole process, from its
start to its end: imports, data, training, the test of the saved model, figure, card and files. *Solved* is the first evaluation
from which held-out exact match stays at or above 99 %. A run ends after three such evaluations in a row, or after 60 epochs.

The options come from a random search that is not kept: a loop in plain PyTorch, with the penalty and without for the same time,
eight seeds a set-up. The table is made from the data: `python recipes/fast_choice.py --table`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from hf_radial.runs.processes import as_flags
from hf_radial.runs.record import RUN_FILE, describe_environment
from hf_radial.runs.results import RESULTS_FILE, write_study

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TUNED_FOR_IT = {"learning_rate": 0.03, "weight_decay": 1.0}
# Arm -> what it changes in the preset.
ARMS: dict[str, dict[str, Any]] = {
    "the preset": {},
    "the preset and the penalty": {"radial_lambda": 0.15},
    "the penalty, tuned for it": {**TUNED_FOR_IT, "radial_lambda": 0.15},
    "the same without the penalty": TUNED_FOR_IT,
    "the preset without warm-up": {"warmup_steps": 0},
    "no warm-up, tuned for it": {"warmup_steps": 0, "learning_rate": 0.02, "weight_decay": 0.65},
    "the penalty without warm-up": {"warmup_steps": 0, "radial_lambda": 0.15},
    "width 512, tuned before": {
        "embedding_size": 256,
        "hidden_size": 512,
        "per_device_train_batch_size": 256,
        "learning_rate": 2e-3,
        "weight_decay": 3.0,
        "adam_beta2": 0.999,
        "warmup_steps": 0,
    },
}
SEEDS = range(100, 108)  # not 0 to 7, with which the options were chosen
COLUMNS = ("hidden_size", "per_device_train_batch_size", "learning_rate", "warmup_steps", "weight_decay", "radial_lambda")
OPTIONS = (*COLUMNS, "embedding_size", "adam_beta2", "threads")


def run(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run, from a cold process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        given = {**options, "seed": seed, "task_seed": seed, "output_dir": out}
        command = [sys.executable, str(HERE / "modular.py"), "--preset", "modular_fast", *as_flags(given)]
        elsewhere = {name for name in os.environ if name.startswith("HF_") and name.endswith("_CACHE")}
        environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
        environment["HF_HOME"] = str(Path(folder) / "home")
        start = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - start
        results, record = (json.loads((out / name).read_text()) for name in (RESULTS_FILE, RUN_FILE))
    resolved = {**record["facts"], **record["training_args"], **record["radial"]}
    return {
        "seed": seed,
        "seconds": seconds,
        "solved_epoch": results["onset_99_epoch"],
        "solved_step": results["onset_99"],
        "fit_step": results["fit_step"],
        "last_step": results["last_step"],
        "held_out": results["last_held_out"],
        "test": results["test"]["exact_match"],
        "options": {name: resolved[name] for name in OPTIONS},
    }


def run_all() -> dict[str, Any]:
    """All of them, one after another."""
    environment = describe_environment()
    arms: list[dict[str, Any]] = [{"arm": name, "options": {}, "runs": []} for name in ARMS]
    for seed in SEEDS:  # not arm by arm: other work on the machine then slows all arms alike
        for arm in arms:
            result = run(ARMS[arm["arm"]], seed)
            arm["options"] = result.pop("options")
            arm["runs"].append(result)
            print(f"{arm['arm']}, seed {seed}: {result['seconds']:.1f} s, step {result['solved_step']}", flush=True)
    return {"command": "python recipes/fast_choice.py", "environment": environment, "arms": arms}


def spread(values: list[float], form: str) -> str:
    """Median, and from where to where.

    >>> spread([3, 1, 2], "g")
    '2 (1 to 3)'
    """
    return f"{format(median(values), form)} ({format(min(values), form)} to {format(max(values), form)})"


def markdown(data: dict[str, Any]) -> str:
    """The table of the data."""
    machine, versions = data["environment"]["machine"], data["environment"]["versions"]
    lines = [
        "# (a+b) mod 97 from a cold process",
        "",
        f"`{data['command']}` on {machine['device']}, one thread, torch {versions['torch']}, transformers "
        f"{versions['transformers']}, Python {versions['python']}, revision {data['environment']['revision']}. Median "
        f"(smallest to largest) of {len(data['arms'][0]['runs'])} seeds, each of them weights, order and split. *Solved*: the "
        "first of three evaluations in a row, an epoch apart, with 99 % of the held-out rows; step and epoch are of the seeds "
        "that were solved. *Seconds*: of the whole process. The test rows were not looked at before the end.",
        "",
        "| arm | width | batch | lr | warm-up | weight decay | lambda | solved | step | epoch | test, worst | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in data["arms"]:
        options, runs = arm["options"], arm["runs"]
        solved = [run for run in runs if run["solved_step"] is not None]
        cells = [arm["arm"], *(f"{options[name]:g}" for name in COLUMNS), f"{len(solved)} of {len(runs)}"]
        cells += [spread([run[f"solved_{what}"] for run in solved], ",g") if solved else "–" for what in ("step", "epoch")]
        cells += [f"{min(run['test'] for run in runs):.2%}", spread([run["seconds"] for run in runs], ".1f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_study("fast_choice", RESULTS, __doc__ or "", run_all, markdown)
