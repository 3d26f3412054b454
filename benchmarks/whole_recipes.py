"""Targets about whole recipes: a cold run to 99 %, a sweep of seeds at once, and the default geometry.

What is measured lies elsewhere (recipes/modular.py, benchmarks/sweep_speed.py, recipes/geometry_cost.py); here it becomes rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import trainer_speed
from benchmarks.by_hand import Steps
from benchmarks.pairs import interleave, ratios
from benchmarks.settings import Settings
from benchmarks.sweep_speed import measure
from benchmarks.table import Row
from hf_radial import GeometryCallback, RadialTrainer
from recipes import geometry_cost

ROOT = Path(__file__).resolve().parent.parent
FAST_PRESET = "modular_fast"
SOLVED_AT = 0.99
SEEDS = 8


# A cold process -------------------------------------------------------------------------------------------------------


def cold_start_rows(settings: Settings) -> Iterator[Row]:
    """Wall time of the whole recipe, from the start of Python to its end; and of its imports alone."""
    what = (
        f"(a+b) mod 97 to {SOLVED_AT:.0%} of the held-out rows from a cold process, recipes/modular.py --preset {FAST_PRESET}"
    )
    preset = ROOT / "recipes" / "configs" / f"{FAST_PRESET}.yaml"
    command = [sys.executable, str(ROOT / "recipes" / "modular.py"), "--preset", FAST_PRESET, "--output_dir"]
    count = 1 if settings.quick else 5
    imports = [sys.executable, "-c", "import recipes.modular"]
    # The first only fills the operating system's cache of files.
    seconds = [whole_process(imports) for _ in range(1 + count)][1:]
    configuration = {"command": "python " + " ".join(Path(word).name for word in command[1:4]), "threads": os.cpu_count()}
    yield Row("imports of recipes/modular.py in a cold process", values=seconds, unit=" s", configuration=configuration)
    if not preset.is_file():
        yield Row(what, at_most=15, unit=" s", missing=f"not run: recipes/configs/{FAST_PRESET}.yaml is missing")
        return
    if settings.quick:
        yield Row(what, at_most=15, unit=" s", missing="not run: --quick")
        return
    found = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            found.append((whole_process([*command, folder]), json.loads((Path(folder) / "results.json").read_text())))
    proofs = [results["test"]["exact_match"] for _, results in found]
    if min(proofs) < SOLVED_AT:
        yield Row(what, at_most=15, unit=" s", missing=f"not reached: the test rows are answered right to {min(proofs):.2%}")
        return
    yield Row(
        what,
        at_most=15,
        values=[seconds for seconds, _ in found],
        unit=" s",
        samples={"seconds": [seconds for seconds, _ in found], "test_exact_match": proofs},
        sample_unit="one a run",
        configuration={**configuration, "preset": preset.read_text(), "seed": found[0][1]["seed"]},
        note=f"test rows answered right: {min(proofs):.2%}",
    )


def whole_process(command: list[str]) -> float:
    """Seconds from start to end, with an empty cache of data and as many threads as there are cores."""
    hidden = ("OMP_NUM_THREADS", "HF_DATASETS_CACHE", "HF_HUB_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    path = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as home:
        environment.update(HF_HOME=home, PYTHONPATH=path)
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return seconds


# A sweep --------------------------------------------------------------------------------------------------------------


def sweep_rows(settings: Settings, device: str = "cpu") -> Iterator[Row]:
    """8 seeds in one process at once, against one after the other."""
    least = 3 if device == "cpu" else 6
    what = f"{SEEDS} seeds one after the other / at once: MLP p=97 d=128, {'CPU' if device == 'cpu' else 'GPU'}"
    if device != "cpu" and not torch.cuda.is_available():
        yield Row(what, at_least=least, missing="not yet run: python benchmarks/run.py --only sweep-gpu")
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)  # as a user's process has them
    try:
        found = measure(pairs=settings.pairs, quick=settings.quick, device=device)
    finally:
        torch.set_num_threads(threads)
    most = SEEDS * median(found["single_seconds_per_step"]) / found["limit"]
    samples = {"batched": found["batched_seconds_per_step"], "single": found["single_seconds_per_step"]}
    yield Row(
        what,
        at_least=least,
        values=[SEEDS * ratio for ratio in ratios(samples["single"], samples["batched"])],
        samples=samples,
        sample_unit="s/step; batched: of all seeds together",
        configuration={name: value for name, value in found.items() if not name.endswith("_seconds_per_step")},
        note=f"{most:.1f} if the products of matrices were all, at the speed of a large one",
    )


# Geometry -------------------------------------------------------------------------------------------------------------


def geometry_rows(settings: Settings) -> Iterator[Row]:
    """Training with the default measurements at their default interval, over training without."""
    yield from geometry_mlp(settings)
    what = "default geometry at its default interval / none: GPT-2 10M, window 256"
    if settings.quick:
        yield Row(what, at_most=1.05, missing="not run: --quick")
        return
    on_cpu = not torch.cuda.is_available()
    # Every other step is measured, and the first measurement warms up.
    found = geometry_cost.measure(16 if on_cpu else None, 2 * (settings.pairs + 1))
    step, every = found["seconds_a_step"], found["every"]
    yield Row(
        what,
        at_most=1.05,
        values=[1 + seconds / (every * step) for seconds in found["measurements"]],
        samples={"a measurement": found["measurements"], "a step": [step]},
        sample_unit="s",
        configuration={
            name: found[name] for name in ("parameters", "sites", "rows_a_step", "rows_run_at_once", "every", "steps")
        },
        note="a measurement over the steps of an interval, of which few are run",
    )


def geometry_mlp(settings: Settings) -> Iterator[Row]:
    """Whole trainings of a tiny model, where a measurement is long beside a step."""
    data, every = trainer_speed.table(), geometry_cost.EVERY
    steps = Steps(2, 4) if settings.quick else Steps(every, 2 * every)
    common: dict[str, Any] = {"rows": data, "width": 128, "batch": 256, "steps": steps, "radial_lambda": trainer_speed.LAMBDA}
    arms = {
        "on": lambda: trainer_speed.trained(RadialTrainer, **common, callbacks=[GeometryCallback(show=False)]),
        "off": lambda: trainer_speed.trained(RadialTrainer, **common),
    }
    samples = interleave(arms, settings.pairs)
    yield Row(
        "default geometry at its default interval / none: MLP p=97 d=128, batch 256",
        at_most=1.05,
        values=ratios(samples["on"], samples["off"]),
        samples=samples,
        configuration={"every": every, "warm_up_steps": steps.warm_up, "timed_steps": steps.timed, "width": 128, "batch": 256},
    )
