"""The pictures of docs/choose.md: a penalty that helps, and one that is too weak, too strong, too late or of a wrong radius.

    python recipes/help_or_harm.py              # 18 runs of a small MLP on a + b mod 23, minutes on one core; then the pictures
    python recipes/help_or_harm.py --only-draw  # the pictures alone, from the committed runs

Each run is one row of recipes/results/help_or_harm.json. The pictures are recipes/results/help_or_harm/CASE.png: the
case beside no penalty, a line a seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_radial.report.axes import compact
from hf_radial.report.canvas import LIGHT, Drawing, Theme, new_figure
from hf_radial.runs.onset import curve, fit_step, onset_step
from hf_radial.runs.record import describe_environment
from hf_radial.runs.script import run_recipe
from hf_radial.safe_files import write_text

RESULTS = Path(__file__).resolve().parent / "results"
NONE, HELPS = "no penalty", "helps"
STEPS, EVERY, SEEDS, SITE, LATE = 1000, 25, (0, 1, 2), "hidden.1", 400
SETTING: dict[str, Any] = {"learning_rate": 0.01, "weight_decay": 0.5, "lr_scheduler_type": "constant"}
CASES: dict[str, dict[str, Any]] = {
    NONE: {"radial_lambda": 0.0},
    HELPS: {"radial_lambda": 0.05},
    "too_weak": {"radial_lambda": 0.0005},
    "too_strong": {"radial_lambda": 100.0},
    "too_late": {"radial_lambda": 0.05, "from_step": LATE},
    "radius_too_long": {"radial_lambda": 0.05, "radial_radius": 100.0},
}
CURVES = ("eval_train_accuracy", "eval_test_accuracy", "task_loss", f"radius/{SITE}", f"radius_target/{SITE}")


def run(case: dict[str, Any], seed: int, steps: int = STEPS) -> list[dict[str, Any]]:
    """Train one network; its log."""
    from transformers import TrainingArguments, set_seed
    from transformers.trainer_callback import PrinterCallback

    from hf_radial import RadialTrainer
    from hf_radial.models import ModularMLPConfig, ModularMLPForSequenceClassification
    from hf_radial.tasks import load_task

    options = dict(case)
    start = options.pop("from_step", 0)
    data = load_task("modular", p=23, train_fraction=0.8, commutative="together")
    set_seed(seed)
    model = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=23, embedding_size=64, hidden_size=128))
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=512,  # all training rows
            per_device_eval_batch_size=512,
            eval_strategy="steps",
            eval_steps=EVERY,
            logging_steps=EVERY,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            **SETTING,
        )
        trainer = RadialTrainer(
            model=model,
            args=args,
            train_dataset=data["train"],
            eval_dataset={"train": data["train"], "test": data["test"]},
            compute_metrics=lambda out: {"accuracy": (out.predictions.argmax(-1) == out.label_ids).mean().item()},
            radial_schedule=(lambda step: float(step >= start)) if start else "constant",
            **options,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer.state.log_history


def row(case: str, seed: int, log: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of a run: its steps of fit and onset, and its curves."""
    curves = {name: curve(log, name) for name in CURVES}
    return {
        "case": case,
        "seed": seed,
        "fit": fit_step(log, "eval_train_accuracy"),
        "onset": onset_step(log, "eval_test_accuracy"),
        "curves": {
            name: [list(steps), [float(f"{value:.5g}") for value in values]] for name, (steps, values) in curves.items()
        },
    }


def drawing(case: str, rows: Sequence[dict[str, Any]]) -> Drawing:
    """Accuracy, task loss and radius of a case, over those of no penalty."""

    def draw(theme: Theme) -> Any:
        figure = new_figure(7.2, 2.3)
        accuracy, loss, radius = figure.subplots(1, 3)
        for name, colour in zip((NONE, case), theme.colours, strict=False):
            label = name if name == NONE else "penalty"
            for one in (one for one in rows if one["case"] == name):
                curves = one["curves"]
                accuracy.plot(*curves["eval_train_accuracy"], color=colour, lw=0.8, ls="--")
                accuracy.plot(*curves["eval_test_accuracy"], color=colour, lw=1.2, label=label)
                loss.plot(*curves["task_loss"], color=colour, lw=1.2)
                radius.plot(*curves[f"radius/{SITE}"], color=colour, lw=1.2)
                label = ""  # one line of the legend for all seeds
            if name != NONE:
                radius.plot(*curves[f"radius_target/{SITE}"], color=theme.ink, lw=1, ls=":", label="target")
        loss.set_yscale("log")
        for axes, title in ((accuracy, "accuracy (dashed: training)"), (loss, "task_loss"), (radius, f"radius/{SITE}")):
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("step", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.locator_params(axis="x", nbins=4)
        loss.yaxis.set_major_formatter(lambda value, _: compact(value))
        figure.legend(loc="outside lower center", ncols=3, fontsize=8.5)
        return figure

    return Drawing(case, case, "", "accuracy, task loss and radius against the step", draw)


def make_pictures(data: dict[str, Any], folder: Path) -> None:
    """Draw every case."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if case != NONE:
            (folder / f"{case}.png").write_bytes(drawing(case, data["rows"]).render(LIGHT))


def table(data: dict[str, Any]) -> str:
    """Steps of fit and onset of each case, by seed."""
    lines = ["| case | options | steps of the fit, by seed | steps of the onset |", "|---|---|---|---|"]
    for case, options in data["cases"].items():
        rows = [one for one in data["rows"] if one["case"] == case]
        cells = [", ".join("–" if one[name] is None else str(one[name]) for one in rows) for name in ("fit", "onset")]
        settings = ", ".join(f"{name} {value:g}" for name, value in options.items())
        lines.append(f"| {case.replace('_', ' ')} | {settings} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> Path:
    import torch
    from tqdm.auto import tqdm  # type: ignore[import-untyped]
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where data and pictures go (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run (%(default)s)")
    parser.add_argument("--only-draw", action="store_true", help="draw the pictures of the runs that are there")
    options = parser.parse_args(argv)
    if options.steps < EVERY:
        raise ValueError(f"--steps {options.steps} must be at least {EVERY}: a run is evaluated every {EVERY} steps")
    file = options.results / "help_or_harm.json"
    if options.only_draw:
        if not file.is_file():
            raise ValueError(f"--only-draw: there is no {file}; leave it out to make the runs")
        data = json.loads(file.read_text())
    else:
        torch.set_num_threads(1)
        logging.set_verbosity_error()
        runs = [(case, seed) for case in CASES for seed in SEEDS]
        rows = [
            row(case, seed, run(CASES[case], seed, options.steps)) for case, seed in tqdm(runs, unit="run", dynamic_ncols=True)
        ]
        data = {
            "command": "python recipes/help_or_harm.py",
            "environment": describe_environment(),
            "setting": SETTING,
            "cases": CASES,
            "rows": rows,
        }
        options.results.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(data) + "\n")
    make_pictures(data, options.results / "help_or_harm")
    print(table(data))
    return file


if __name__ == "__main__":
    run_recipe(main)
