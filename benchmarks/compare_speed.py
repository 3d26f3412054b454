"""How many runs of a comparison one core makes in an hour: alone as before, with denormals flushed, and sharing their steps.

    OMP_NUM_THREADS=1 python benchmarks/compare_speed.py     # minutes; writes recipes/results/compare_speed.json

Each way makes the same runs, of a + b mod 97 on a fifth of the table at random settings, in one warm process. Seconds are
CPU time, since other work on the machine is no part of the question. A second case is a run whose weights decay to nothing.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.comparison.grid import run_name  # noqa: E402
from hf_radial.comparison.run import make_run, make_runs  # noqa: E402
from hf_radial.runs.record import describe_environment  # noqa: E402

RESULT = ROOT / "recipes" / "results" / "compare_speed.json"
BASE: dict[str, Any] = {"task": "modular", "fields": {"operation": "add", "p": 97}, "train_fraction": 0.2}
BASE |= {"split_by_seed": True, "evaluate_every": 4, "stop": False}
TOGETHER, ALONE, EPOCHS = 8, 2, 40
DECAYING = {**BASE, "learning_rate": 0.0487, "weight_decay": 1.11, "warmup_steps": 10, "epochs": 200, "seed": 0}


def runs(count: int) -> list[dict[str, Any]]:
    """Options of so many runs, at random settings of the optimizer, with the penalty."""
    draw = random.Random(0)
    return [
        {
            **BASE,
            "epochs": EPOCHS,
            "learning_rate": round(10 ** draw.uniform(-2.5, -1.2), 5),
            "weight_decay": round(10 ** draw.uniform(-1, 0.5), 4),
            "warmup_steps": draw.choice([0, 10, 100]),
            "interventions": ["radial:strength=0.5,radius=initial"],
            "seed": seed,
        }
        for seed in range(count)
    ]


def seconds(options: list[dict[str, Any]], together: bool, **more: Any) -> float:
    """CPU seconds of these runs."""
    with tempfile.TemporaryDirectory() as folder:
        todo = [(Path(folder) / run_name(one), {**one, **more}) for one in options]
        for path, _ in todo:
            path.mkdir()
        begun = time.process_time()
        if together:
            make_runs(todo)
        else:
            for path, one in todo:
                make_run(path, one)
        return time.process_time() - begun


def main() -> None:
    seconds([{**runs(1)[0], "epochs": 1}], together=False)  # imports
    alone = runs(ALONE)
    before = seconds(alone, together=False, flush_denormals=False) / ALONE
    flushed = seconds(alone, together=False) / ALONE
    shared = seconds(runs(TOGETHER), together=True) / TOGETHER
    found = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/compare_speed.py",
        "runs": f"{EPOCHS} epochs of 8 steps, {TOGETHER} sharing their steps",
        "seconds a run": {"alone, as before": before, "alone, denormals flushed": flushed, "together": shared},
        "runs a core-hour": {"alone, as before": 3600 / before, "together": 3600 / shared},
        "times as many": before / shared,
        "a run whose weights decay to nothing, seconds": {
            "as before": seconds([DECAYING], together=False, flush_denormals=False),
            "denormals flushed": seconds([DECAYING], together=False),
        },
        "environment": describe_environment(),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
