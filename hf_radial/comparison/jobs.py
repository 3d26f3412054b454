"""Units of work (a run, runs that share their steps, or the tuning of one arm), and the loop that makes them all.

A run that fails leaves its traceback in its folder and is tried once more. In here: the units of work, and their order in a
grid. Not in here: where they run (`workers`).
"""

from __future__ import annotations

import json
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
# Options in which runs that share their steps may differ, besides the strength of the penalty.
SHARED = ("learning_rate", "weight_decay", "radial_lambda", "warmup_steps", "adam_beta2", "max_grad_norm", "seed")


@dataclass(frozen=True)
class Job:
    """Runs that are one unit of work: a single run, or several that share their steps."""

    runs: Runs

    def make(self) -> None:
        """Make the runs that are not done. Each ends with a result or a failure, which is written to its folder."""
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
        """The next runs: the next trial, or the finalists' runs that are not done."""
        cells = tuning_cells(self.grid, self.setting, self.arm, self.root)[1]
        return undone([(cell.folder(self.root), cell.options) for cell in cells])


@dataclass(frozen=True)
class TuningJobs:
    """Tunings that advance together, so that their next trials can share their steps: the replicates of one arm."""

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
    """Runs as jobs. MLPs that differ only in seeds and in options of the optimizer and the penalty share a job."""
    alike: dict[str, Runs] = {}
    for folder, options in todo:
        methods = options.get("interventions") or []
        can = options.get("model", "mlp") == "mlp" and all(map(stacks, methods))
        rest = {name: value for name, value in options.items() if name not in SHARED}
        rest["interventions"] = [text for text in map(_not_shared, methods) if text]
        key = json.dumps(rest, sort_keys=True, default=str) if can and together > 1 else str(folder)
        alike.setdefault(key, []).append((folder, options))
    return [
        Job(sorted(runs[i::parts], key=lambda pair: [pair[1].get(name, 0) for name in SHARED]))
        for runs in alike.values()
        for parts in [-(-len(runs) // together)]
        for i in range(parts)
    ]


def stacks(text: str) -> bool:
    """Whether runs with this intervention can share their steps.

    One that cannot is not made here: it may need a file that another run is still to write.

    >>> [stacks(text) for text in ("radial:strength=1", "layer_norm:affine=true", "replay:what=norm,file={followed}/a.json")]
    [True, False, False]
    """
    from hf_radial.interventions import INTERVENTIONS, intervention

    return INTERVENTIONS[text.partition(":")[0]].swept is not None and intervention(text).can_join_sweep()


def _not_shared(text: str) -> str:
    """An intervention without the options that may differ; empty if runs may also differ in having it.

    >>> _not_shared("radial:strength=1,schedule=cosine"), _not_shared("radial:strength=1"), _not_shared("layer_norm")
    ('radial:schedule=cosine', '', 'layer_norm')
    """
    from hf_radial.interventions import INTERVENTIONS

    name, _, options = text.partition(":")
    if not (swept := INTERVENTIONS[name].swept):
        return text
    rest = [option for option in options.split(",") if option.partition("=")[0].strip() not in swept]
    return f"{name}:{','.join(rest)}" if any(rest) else ""


def attempt(runs: Runs) -> None:
    """Make runs, as `Job.make` does. A second comparison with the same folders waits, and then finds these runs done."""
    with ExitStack() as held:
        for folder in sorted(folder for folder, _ in runs):  # always in the same order, against deadlocks
            held.enter_context(locked(folder / LOCK_FILE, f"makes the run in {folder}"))
        _attempt(undone(runs))


def _attempt(runs: Runs) -> None:
    for folder, options in runs:
        write_json(folder / "options.json", options)
    if len(runs) > 1:
        try:
            make_runs(runs)
            return
        except Exception:  # of one run, or of a shared part: each run is tried alone below
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
    """Record the failure of a process for each run that it may have been making."""
    for folder, _ in job.undone()[: 1 if isinstance(job, TuningJob) else None]:
        note_failure(folder, message, "")


Jobs = Sequence[AnyJob]
Runner = Callable[[Jobs], Iterator[AnyJob]]


def run_all(cells: Sequence[Cell], root: Path, runner: Runner, title: str, together: int = 1) -> None:
    """Make each run that is not done: first those that follow no other run, then the others. A failed run is tried once more.

    If a run fails in a group, its second attempt is alone.
    """
    for follows in (False, True):
        all_of_them = {cell.folder(root): cell.options for cell in cells if ("follows" in cell.options) is follows}
        while todo := undone(list(all_of_them.items())):
            again = [(folder, options) for folder, options in todo if (folder / FAILED_FILE).is_file()]
            first = [one for one in todo if one not in again]
            _run([*jobs_of(first, together), *jobs_of(again, 1)], runner, title)


def tune_all(grid: Grid, root: Path, runner: Runner, title: str, together: int = 1) -> None:
    """Tune the arms of a grid in parallel. The trials of one arm come one after the other.

    The replicates of an arm advance together if runs may share their steps.
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
    for first in (True, False):  # the other arms start from the reference's best settings
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
                        "failed, will be repeated" if said is None else f"{said['status']} {said.get('onset') or ''}"
                    )
                    if said is not None and said["status"] == "failed":
                        print(f"  FAILED {folder}: {said['failure']}", flush=True)
            elif isinstance(job, TuningJobs):
                bar.set_postfix_str(f"{job.tunings[0].arm.name}: {len(job.undone())} runs are next")
            else:
                bar.set_postfix_str(f"{job.arm.name}: {best_trial(job.grid, job.setting, job.arm, job.root) or 'not yet'}")
            bar.update()
