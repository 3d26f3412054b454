"""A sweep of the modular MLP: every combination of seeds, radial_lambda, weight decay and learning rate, at once.

    python recipes/sweep.py --seeds 0 1 2 3 4 5 6 7 --radial_lambdas 0 0.05 --weight_decays 1.0 --num_train_epochs 300
    python recipes/sweep.py --seeds 0 1 2 --learning_rates 1e-3 3e-3 --solved_evaluations 3 --output_dir runs/rates
    python recipes/sweep.py ... --output_dir runs/rates --resume_from_checkpoint true        # what is not done yet

Options and presets are those of recipes/modular.py. All runs have one shape and share their steps (`hf_radial.sweep`). Each is
the run that recipes/modular.py would have made of its options, up to rounding, and leaves the same files in a folder of its
own, which `hf-radial report` reads. It writes no checkpoints: a run that was interrupted is trained again from its beginning.

Read from top to bottom: the options, the runs, what is kept of each, the table and the figure, and `main`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

from datasets import DatasetDict

from hf_radial import RadialArguments
from hf_radial.report.canvas import COLOURS
from hf_radial.runs.files import STATE_FILE
from hf_radial.runs.onset import HELD_OUT_METRIC, curve
from hf_radial.runs.record import describe_run
from hf_radial.runs.results import RESULTS_FILE, results_of, write_card
from hf_radial.runs.resume import check_same_options
from hf_radial.runs.script import run_recipe
from hf_radial.runs.start import at_least, end_processes, open_run, parse_options
from hf_radial.safe_files import write_text
from hf_radial.sweep.members import SweepMember, check_members
from hf_radial.sweep.together import train_together
from hf_radial.tasks.tensor_rows import TensorRows

# Started as a script, this folder is on the path, but not the one above it. Last: where the package is installed, that is
# hf_radial/ itself.
sys.path.append(str(Path(__file__).parents[1]))

from recipes import modular
from recipes.modular import CONFIGS, PRESET, ModularArguments, load_data, make_trainer

FAILED_FILE = "failed.json"  # in place of results.json, for a run whose loss became NaN or infinite
TABLE_FILE = "sweep.json"
FIGURE_FILE = "sweep.png"


@dataclass
class SweepArguments:
    """The axes of the sweep: every combination is a run. An axis without a list has one value, that of the option itself."""

    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds of weights and order of rows.", "nargs": "+"})
    radial_lambdas: list[float] | None = field(default=None, metadata={"help": "Weights of the penalty.", "nargs": "+"})
    weight_decays: list[float] | None = field(default=None, metadata={"help": "Weight decays.", "nargs": "+"})
    learning_rates: list[float] | None = field(default=None, metadata={"help": "Learning rates.", "nargs": "+"})
    members_at_once: int = field(
        default=32, metadata={"help": "Most runs that share their steps; more are trained one such group after the other."}
    )

    def __post_init__(self) -> None:
        for name in ("seeds", "radial_lambdas", "weight_decays", "learning_rates"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name}={values} must be at least one value, each once")
        at_least(self, 1, "members_at_once")
        at_least(self, 0, *(name for name in ("seeds", "weight_decays", "learning_rates") if getattr(self, name) is not None))


# The runs -------------------------------------------------------------------------------------------------------------


def grid(sweep: SweepArguments, args: RadialArguments, folder: Path) -> dict[Path, RadialArguments]:
    """Folder of each run -> its arguments. Runs with equal learning rate and weight decay are neighbours."""
    axes: dict[str, list[Any]] = {
        "learning_rate": sweep.learning_rates or [args.learning_rate],
        "weight_decay": sweep.weight_decays or [args.weight_decay],
        "radial_lambda": sweep.radial_lambdas or [args.radial_lambda],
        "seed": sweep.seeds or [args.seed],
    }
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return {folder / name(point): replace(args, **point) for point in points}


def name(point: dict[str, float]) -> str:
    """The name of a run's folder.

    >>> name({"learning_rate": 0.001, "weight_decay": 1.0, "radial_lambda": 0.05, "seed": 3})
    'lr-0.001_wd-1_lambda-0.05_seed-3'
    """
    short = {"learning_rate": "lr", "weight_decay": "wd", "radial_lambda": "lambda", "seed": "seed"}
    return "_".join(f"{short[key]}-{value:g}" for key, value in point.items())


def is_done(folder: Path) -> bool:
    """Whether a run has ended: its last file is there."""
    return (folder / RESULTS_FILE).is_file() or (folder / FAILED_FILE).is_file()


def make_members(
    task: ModularArguments, runs: dict[Path, RadialArguments], data: DatasetDict, rows: dict[str, TensorRows]
) -> list[SweepMember]:
    """The runs that are not done. Raises a ValueError if a folder holds a run with other options."""
    members: list[Any] = []
    splits: Any = None
    for folder, args in runs.items():
        member = make_trainer(task, args, data, rows, folder, SweepMember)
        splits = member.eval_dataset = splits or member.eval_dataset  # one object for all
        check_same_options(folder, describe_run(member))
        if not is_done(folder):
            members.append(member)
    if members:
        check_members(members)
    return members


# What is kept of each -------------------------------------------------------------------------------------------------


def keep(member: SweepMember, data: DatasetDict) -> None:
    """Save a run that has ended, as recipes/modular.py does. The file that marks it as done is written last."""
    folder, model = Path(str(member.args.output_dir)), cast(Any, member.model)
    member.save_state()
    if member.failure is not None:
        said = {"failure": member.failure, "last_step": member.state.global_step}
        write_text(folder / FAILED_FILE, json.dumps(said, indent=2) + "\n")
        return
    model.save_pretrained(folder)
    results = results_of(member, modular.test_saved_model(folder, data))
    write_card(member, results)
    write_text(folder / RESULTS_FILE, json.dumps(results, indent=2) + "\n")


# The table and the figure ---------------------------------------------------------------------------------------------


def row(folder: Path, args: RadialArguments) -> dict[str, Any]:
    """One run's row, from its files."""
    point = {key: getattr(args, key) for key in ("learning_rate", "weight_decay", "radial_lambda", "seed")}
    if (folder / FAILED_FILE).is_file():
        return {"run": folder.name, **point, **json.loads((folder / FAILED_FILE).read_text())}
    results = json.loads((folder / RESULTS_FILE).read_text())
    kept = ("fit_step", "fit_epoch", "onset_90", "onset_90_epoch", "onset_99", "onset_99_epoch", "last_step", "last_epoch")
    numbers = {key: results[key] for key in (*kept, "last_held_out")}
    return {"run": folder.name, **point, **numbers, "test_exact_match": results["test"]["exact_match"], "failure": None}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The runs as text; an epoch that was not reached is later than the last one.

    >>> run = {"learning_rate": 0.001, "weight_decay": 1.0, "radial_lambda": 0.05, "seed": 3, "failure": None}
    >>> print(table([{**run, "fit_epoch": 20.0, "onset_90_epoch": None, "last_epoch": 300.0, "test_exact_match": 0.5}]))
    learning rate  weight decay  lambda  seed  fit, epoch  onset, epoch  test
            0.001             1    0.05     3          20         > 300  50.00%
    """
    head = ["learning rate", "weight decay", "lambda", "seed", "fit, epoch", "onset, epoch", "test"]
    lines = [head]
    for run in rows:
        cells = [f"{run[key]:g}" for key in ("learning_rate", "weight_decay", "radial_lambda", "seed")]
        if run["failure"] is None:
            epochs = (run["fit_epoch"], run["onset_90_epoch"])
            cells += [f"> {run['last_epoch']:g}" if epoch is None else f"{epoch:g}" for epoch in epochs]
            cells.append(f"{run['test_exact_match']:.2%}")
        else:
            cells += ["", "", f"FAILED: {run['failure']}"]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    return "\n".join("  ".join([*(c.rjust(w) for c, w in zip(line, widths, strict=False)), line[-1]]) for line in lines)


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Held-out exact match of all runs by epoch, seeds of one setting in one colour.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'hf_radial[plots]'") from error
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours: dict[str, str] = {}
    for run in rows:
        setting = f"lambda {run['radial_lambda']:g}, wd {run['weight_decay']:g}, lr {run['learning_rate']:g}"
        label = None if setting in colours else setting
        colour = colours.setdefault(setting, COLOURS[len(colours) % len(COLOURS)])
        style = ("-", "--", ":")[list(colours).index(setting) // len(COLOURS) % 3]
        log = json.loads((folder / run["run"] / STATE_FILE).read_text())["log_history"]
        epochs = {logs["step"]: logs["epoch"] for logs in log}
        steps, values = curve(log, HELD_OUT_METRIC)
        axes.plot([epochs[step] for step in steps], values, style, color=colour, lw=1, alpha=0.8, label=label)
    axes.set(xlabel="epoch", ylabel="held-out exact match", ylim=(-0.02, 1.02), title="a line a seed")
    axes.legend(fontsize="small")
    figure.savefig(folder / FIGURE_FILE, dpi=120)


# From start to end ----------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> Path:
    types = (ModularArguments, RadialArguments, SweepArguments)
    task, args, sweep = parse_options(types, argv, CONFIGS, PRESET, __doc__ or "")
    if task.geometry_every:
        raise ValueError(f"geometry_every={task.geometry_every} is not supported in a sweep; use recipes/modular.py for it")
    _, folder, _ = open_run(args, "runs/sweep")
    data = load_data(task)
    rows = {split: TensorRows.of(data[split]) for split in ("train", "validation")}
    runs = grid(sweep, args, folder)
    members = make_members(task, runs, data, rows)
    print(f"{len(runs)} runs, {len(runs) - len(members)} of them done; {min(len(members), sweep.members_at_once)} at once")
    started = time.perf_counter()
    for first in range(0, len(members), sweep.members_at_once):
        train_together(members[first : first + sweep.members_at_once], on_end=lambda member: keep(member, data))
    report(folder, runs, time.perf_counter() - started)
    return folder


def report(folder: Path, runs: dict[Path, RadialArguments], seconds: float) -> None:
    """Write and print the table, and draw the figure."""
    rows = [row(run, args) for run, args in runs.items()]
    (folder / TABLE_FILE).write_text(json.dumps({"seconds": seconds, "runs": rows}, indent=1) + "\n")
    print(f"\n{table(rows)}\n")
    print(f"  {seconds:.0f} seconds; runs {folder}/*/, table {folder / TABLE_FILE}", end="")
    try:
        draw(rows, folder)
        print(f", figure {folder / FIGURE_FILE}")
    except ImportError as missing:
        print(f"; no figure: {missing}")
    print(f"  more: hf-radial report {folder}/*/")


if __name__ == "__main__":
    run_recipe(main)
    end_processes()
