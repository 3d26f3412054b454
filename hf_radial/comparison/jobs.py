"""Pieces of work: a run, runs that share their steps, or the tuning of one arm; made until nothing is left to do.

A run that fails leaves its traceback in its folder and is made once more. In here: what a piece of work is, and the order of
a grid's pieces. Not in here: where they are made (`workers`).
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm  # type: ignore[import-untyped]

from hf_radial.comparison.grid import Arm, Grid, replicates_of
from hf_radial.comparison.outcome import FAILED_FILE, RESULT_FILE, Runs, note_failure, outcome, undone, write_json
from hf_radial.comparison.run import make_run, make_runs
from hf_radial.comparison.trials import Cell, best_trial, tuning_cells
from hf_radial.safe_files import locked

LOCK_FILE = ".lock"  # in a run's folder
# What runs that share their steps may differ in, beside the strength of the penalty.
SHARED = ("learning_rate", "weight_decay", "radial_lambda", "warmup_steps", "adam_beta2", "max_grad_norm", "seed")
STACKED = ("radial", "layer_norm")  # interventions that stacked models have


@dataclass(frozen=True)
class Job:
    """Runs that are made in one piece of work: one, or several that share their steps."""

    runs: Runs

    def make(self) -> None:
        """Make those that are not done yet, each to a result or a failure, which is written to its folder."""
        attempt(self.runs)

    def undone(self) -> Runs:
        return undone(self.runs)


@dataclass(frozen=True)
class TuningJob:
    """The tuning of one arm at one setting, trial after trial."""

    grid: Grid
    setting: dict[str, Any]
    arm: Arm
    root: Path

    def make(self) -> None:
        while todo := self.undone():
            attempt(todo[:1])

    def undone(self) -> Runs:
        """What is to be run next: the trial after those that are done, or what is left of the finalists."""
        cells = tuning_cells(self.grid, self.setting, self.arm, self.root)[1]
        return undone([(cell.folder(self.root), cell.options) for cell in cells])


@dataclass(frozen=True)
class TuningJobs:
    """Tunings that advance side by side, so that their next trials can share their steps: the replicates of one arm."""

    tunings: tuple[TuningJob, ...]
    together: int

    def make(self) -> None:
        while todo := self.undone():
            for job in jobs_of(todo, self.together):
                attempt(job.runs)

    def undone(self) -> Runs:
        return [one for job in self.tunings for one in job.undone()]


AnyJob = Job | TuningJob | TuningJobs


def jobs_of(todo: Runs, together: int) -> list[Job]:
    """Runs as jobs: MLPs that differ in nothing but seeds and numbers of the optimizer and the penalty go together."""
    alike: dict[str, Runs] = {}
    for folder, options in todo:
        methods = options.get("interventions") or []
        can = options.get("model", "mlp") == "mlp" and all(text.partition(":")[0] in STACKED for text in methods)
        rest = {name: value for name, value in options.items() if name not in SHARED}
        rest["interventions"] = [re.sub(r"strength=[^,]*", "strength", text) for text in methods]
        key = json.dumps(rest, sort_keys=True, default=str) if can and together > 1 else str(folder)
        alike.setdefault(key, []).append((folder, options))
    return [
        Job(sorted(runs[i::parts], key=lambda pair: [pair[1].get(name, 0) for name in SHARED]))
        for runs in alike.values()
        for parts in [-(-len(runs) // together)]
        for i in range(parts)
    ]


def attempt(runs: Runs) -> None:
    """See `Job.make`. Another comparison that shares the folders waits, and then finds these runs done."""
    with ExitStack() as held:
        for folder in sorted(folder for folder, _ in runs):  # in one order, so that no two wait for each other
            held.enter_context(locked(folder / LOCK_FILE, f"makes the run in {folder}"))
        _attempt(undone(runs))


def _attempt(runs: Runs) -> None:
    for folder, options in runs:
        write_json(folder / "options.json", options)
    if len(runs) > 1:
        try:
            make_runs(runs)
            return
        except Exception:  # of one of them or of what they share: run by run it can be seen
            traceback.print_exc()
    for folder, options in runs:
        if (folder / RESULT_FILE).is_file() or (len(runs) > 1 and (folder / FAILED_FILE).is_file()):
            continue
        try:
            make_run(folder, options)
            (folder / FAILED_FILE).unlink(missing_ok=True)
        except Exception as error:
            note_failure(folder, f"{type(error).__name__}: {error}", traceback.format_exc())


def note_failures(job: AnyJob, message: str) -> None:
    """The failure of a process, for each of the runs that it may have had in hand."""
    for folder, _ in job.undone()[: 1 if isinstance(job, TuningJob) else None]:
        note_failure(folder, message, "")


Jobs = Sequence[AnyJob]
Runner = Callable[[Jobs], Iterator[AnyJob]]


def run_all(cells: Sequence[Cell], root: Path, runner: Runner, title: str, together: int = 1) -> None:
    """Make the runs that are not done, those that follow another last, and those that fail once more; each of them once.

    A run that fails among others is made again by itself.
    """
    for follows in (False, True):
        all_of_them = {cell.folder(root): cell.options for cell in cells if ("follows" in cell.options) is follows}
        while todo := undone(list(all_of_them.items())):
            again = [(folder, options) for folder, options in todo if (folder / FAILED_FILE).is_file()]
            first = [one for one in todo if one not in again]
            _run([*jobs_of(first, together), *jobs_of(again, 1)], runner, title)


def tune_all(grid: Grid, root: Path, runner: Runner, title: str, together: int = 1) -> None:
    """Tune the arms of a grid, side by side; the trials of one arm are made one after the other.

    Replicates of an arm advance side by side if runs may share their steps.
    """
    if grid.replicates and together > 1:
        replicates = replicates_of(grid)
        both = [
            TuningJobs(tuple(TuningJob(one, setting, arm, root) for one in replicates), together)
            for setting in grid.settings
            for arm in grid.arms
        ]
        while left := [job for job in both if job.undone()]:
            _run(left, runner, title)
        return
    for one in replicates_of(grid):
        _tune_each(one, root, runner, title)


def _tune_each(grid: Grid, root: Path, runner: Runner, title: str) -> None:
    for first in (True, False):  # the others begin where the reference has ended
        arms = [arm for arm in grid.arms if (arm.name == grid.reference) is first]
        jobs = [TuningJob(grid, setting, arm, root) for setting in grid.settings for arm in arms]
        while todo := [job for job in jobs if job.undone()]:
            _run(todo, runner, title)


def _run(todo: Jobs, runner: Runner, title: str) -> None:
    with tqdm(total=len(todo), desc=title, unit="job", dynamic_ncols=True, disable=None) as bar:
        for job in runner(todo):
            if isinstance(job, Job):
                for folder, _ in job.runs:
                    said = outcome(folder)
                    bar.set_postfix_str(
                        "failed, to be made again" if said is None else f"{said['status']} {said.get('onset') or ''}"
                    )
                    if said is not None and said["status"] == "failed":
                        print(f"  FAILED {folder}: {said['failure']}", flush=True)
            elif isinstance(job, TuningJobs):
                bar.set_postfix_str(f"{job.tunings[0].arm.name}: {len(job.undone())} runs are next")
            else:
                bar.set_postfix_str(f"{job.arm.name}: {best_trial(job.grid, job.setting, job.arm, job.root) or 'not yet'}")
            bar.update()
