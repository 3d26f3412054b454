"""What a recipe writes when a run or a study has ended: results and card of a run, its row, data and table of a study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, curve, summarise
from hf_radial.runs.record import describe_environment
from hf_radial.safe_files import write_text

RESULTS_FILE = "results.json"  # a recipe writes it last: a folder that has it holds a run that has ended


def results_of(trainer: Any, test: dict[str, Any]) -> dict[str, Any]:
    """The results of a run: its test, what its log says of fit and onset, its seed, and where it was made."""
    return {
        "test": test,
        **summarise(trainer.state.log_history),
        "seed": trainer.args.seed,
        "environment": describe_environment(),
    }


def write_card(trainer: Any, results: dict[str, Any]) -> None:
    """Write the model card of a tested run, and push model and card if the trainer pushes to a Hub."""
    trainer.run_facts["results"] = results
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.push_to_hub(commit_message="The tested model, its card and its curves")


def penalty_label(trainer: Any) -> str:
    """The penalty of a run in a few words: `paper penalty, lambda 0.05`, or `no penalty`."""
    config = trainer.radial_config
    return "no penalty" if config.radial_lambda == 0 else f"{config.variant} penalty, lambda {config.radial_lambda:g}"


def in_file_name(arm: str) -> str:
    """An arm's name as a part of a file's name.

    >>> in_file_name("penalty 0.5, initial radius")
    'penalty-0.5_initial-radius'
    """
    return arm.replace(", ", "_").replace(" ", "-")


def accuracies_in_row(log: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The evaluations of a run for its row in a study: steps, and exact match on held-out and on training rows."""
    steps, held_out = curve(log, HELD_OUT_METRIC)
    return {"step": steps, "held_out_exact_match": held_out, "train_exact_match": curve(log, TRAIN_METRIC)[1]}


def log_of_row(curves: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The log that `accuracies_in_row` had: an entry for each evaluation of a run, from the curves of its row."""
    columns = (curves[name] for name in ("step", "train_exact_match", "held_out_exact_match"))
    return [
        {"step": step, TRAIN_METRIC: train, HELD_OUT_METRIC: held_out} for step, train, held_out in zip(*columns, strict=True)
    ]


def radii_in_row(log: Sequence[dict[str, Any]], sites: Sequence[str]) -> tuple[list[int], dict[str, list[float]]]:
    """The radii of a run for its row in a study: steps, and site -> mean radii, rounded."""
    steps = curve(log, f"radius/{sites[0]}")[0] if sites else []
    return steps, {site: [round(radius, 4) for radius in curve(log, f"radius/{site}")[1]] for site in sites}


def record_in_row(record: dict[str, Any]) -> dict[str, Any]:
    """What a run's row in a study keeps of its `run.json`: all that is needed to make the run again."""
    arguments = {name: value for name, value in record["training_args"].items() if value is not None}
    return {**{name: record[name] for name in ("radial", "facts", "model", "environment")}, "training_args": arguments}


def write_study(name: str, folder: Path, description: str, measure: Callable[[], Any], markdown: Callable[[Any], str]) -> None:
    """The command line of a study with one option, `--table`: `NAME.json` is measured, `NAME.md` is made from it.

    Args:
        name: of the two files, without their endings.
        folder: where they go.
        description: for `--help`.
        measure: gives the data. It is not called with `--table`, which makes the table from the data that is there.
        markdown: the table of the data.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only make the table from the data again")
    file = folder / f"{name}.json"
    if not parser.parse_args().table:
        write_text(file, json.dumps(measure(), indent=1) + "\n")
    write_text(folder / f"{name}.md", markdown(json.loads(file.read_text())))
