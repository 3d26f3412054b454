"""What the default measurements of `GeometryCallback` cost beside training, on the preset with 10.6 million parameters.

    python recipes/geometry_cost.py                      # on a GPU: whole steps of the preset
    python recipes/geometry_cost.py --rows 16            # on a CPU: steps of 16 rows, and 256 / 16 of them counted as a step

Writes recipes/results/geometry_cost.json and .md. A step's seconds are the median over steps without a measurement; a
measurement's are the median of `geometry/seconds` in the log, without the first one, which warms up. *Share* is measuring time
divided by the time of training and measuring, at the callback's default interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from inspect import signature
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from hf_radial import GeometryCallback, RadialArguments, RadialTrainer
from hf_radial.runs.record import describe_environment
from hf_radial.runs.start import parse_options
from hf_radial.tasks.tokenizer import character_tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))
from recipes.addition import CONFIGS, AdditionArguments, build_model, load_data, windows

RESULTS = Path(__file__).parent / "results"
EVERY = signature(GeometryCallback).parameters["every"].default


class Clock(TrainerCallback):
    """The seconds of each step, from its beginning to its end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._wait()
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._wait()
        self.seconds.append(time.perf_counter() - self.started)

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def measure(rows: int | None, steps: int) -> dict[str, Any]:
    """Train a few steps of the preset, measuring at every other one."""
    preset = str(CONFIGS / "addition_nanogpt.yaml")
    with tempfile.TemporaryDirectory() as folder:
        argv = [preset, "--output_dir", folder, "--report_to", "none"]
        task, args = parse_options((AdditionArguments, RadialArguments), argv, CONFIGS, "addition_nanogpt", "")
        batch = args.per_device_train_batch_size
        args.per_device_train_batch_size = rows or batch
        args.max_steps, args.save_strategy, args.eval_strategy, args.disable_tqdm = steps, "no", "no", True
        data = load_data(task)
        tokenizer = character_tokenizer("0123456789+=\n")
        set_seed(0)
        model = build_model(task, tokenizer)
        clock = Clock()
        # The clock is first in the list: it stops before a measurement begins.
        trainer = RadialTrainer(
            model=model,
            args=args,
            train_dataset=windows(data, tokenizer, task, args),
            radial_lambda=task.paper_lambda,
            callbacks=[clock, GeometryCallback(every=2)],
        )
        trainer.train()
    step = median(clock.seconds[2:]) * batch / (rows or batch)
    spent = [logs for logs in trainer.state.log_history if "geometry/seconds" in logs][1:]
    seconds = median(logs["geometry/seconds"] for logs in spent)
    return {
        "parameters": model.num_parameters(),
        "sites": 0 if trainer.radial_penalty is None else len(trainer.radial_penalty.sites),
        "rows_a_step": batch,
        "rows_run_at_once": rows or batch,
        "steps": steps,
        "seconds_a_step": step,
        "seconds_a_measurement": seconds,
        "measurements": [logs["geometry/seconds"] for logs in spent],
        "seconds_by_group": {
            name.removeprefix("geometry/seconds_"): median(logs[name] for logs in spent)
            for name in spent[0]
            if name.startswith("geometry/seconds_")
        },
        "every": EVERY,
        "share": seconds / (seconds + EVERY * step),
        "environment": describe_environment(),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table, from the data."""
    groups = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found["seconds_by_group"].items())
    machine = found["environment"]["machine"]
    return "\n".join(
        [
            "# What measuring costs",
            "",
            "Made by `python recipes/geometry_cost.py` from geometry_cost.json: the default metrics of `GeometryCallback` at",
            "its default interval, on the addition preset with window 256.",
            "",
            "| device | threads | parameters | sites | a step, s | a measurement, s | interval | share of time |",
            "|---|---|---|---|---|---|---|---|",
            f"| {machine['device']} | {machine['torch_threads']} | {found['parameters']:,} | {found['sites']} "
            f"| {found['seconds_a_step']:.3g} | {found['seconds_a_measurement']:.3g} | {found['every']} steps "
            f"| {found['share']:.2%} |",
            "| a GPU (`python recipes/geometry_cost.py`) | | | | not yet run | not yet run | | |",
            "",
            f"Seconds by group: {groups}.",
            f"A step has {found['rows_a_step']} rows, of which {found['rows_run_at_once']} were run.",
            "",
        ]
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="rows of a step that are run, where all would take too long")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps; every other one is followed by a measurement")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(argv)
    if options.rows is not None and options.rows < 1:
        parser.error(f"--rows {options.rows} must be at least 1")
    if options.steps < 4:
        parser.error(f"--steps {options.steps} must be at least 4: the first two warm up")
    found = measure(options.rows, options.steps)
    (options.results / "geometry_cost.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.results / "geometry_cost.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main(sys.argv[1:])
