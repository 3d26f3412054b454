"""The runs of a grid: the trials of each arm's tuning, in their order, and the judged runs at the best settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_radial.comparison.grid import Arm, Grid, ranges_of, run_name, run_options, sampler_seed
from hf_radial.comparison.outcome import outcome
from hf_radial.comparison.run_options import read_run
from hf_radial.comparison.tuning import score, search

_REFERENCES: dict[tuple[str, str, Path], dict[str, Any]] = {}  # the reference's best settings, once it is tuned


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    setting: str
    arm: str
    stage: str
    drawn: dict[str, Any]
    options: dict[str, Any]
    replicate: int = 0

    def folder(self, root: Path) -> Path:
        return root / run_name(self.options)


def label(setting: dict[str, Any]) -> str:
    """A setting as text.

    >>> label({"task": "modular", "fields": {"operation": "add", "p": 97}, "train_fraction": 0.3})
    'modular, operation add, p 97, train_fraction 0.3'
    """
    parts = []
    for name, value in setting.items():
        if isinstance(value, dict):
            parts += [f"{key} {inner}" for key, inner in value.items()]
        else:
            parts.append(str(value) if name in ("task", "model") else f"{name} {value}")
    return ", ".join(parts)


def tuning_cells(grid: Grid, setting: dict[str, Any], arm: Arm, root: Path) -> tuple[list[Cell], list[Cell]]:
    """The runs of an arm's tuning that are done, in their order, and the next ones; no next ones if the tuning is complete.

    A draw depends on the outcomes of the earlier runs. Runs after the next are therefore unknown.
    """
    if grid.tuning is None:
        return [], []

    def cells(drawn: dict[str, Any], seeds: Sequence[int]) -> list[Cell]:
        options = [run_options(grid, setting, arm, drawn, seed) for seed in seeds]
        return [Cell(label(setting), arm.name, "tuning", drawn, one, grid.replicate or 0) for one in options]

    done: list[Cell] = []
    tried: dict[str, tuple[float, dict[str, Any]]] = {}
    start = start_of(grid, setting, arm, root)
    asked = search(ranges_of(arm, grid.tuning), grid.tuning.trials, start, sampler_seed(grid, label(setting), arm.name))
    drawn = next(asked)
    while True:
        trial = cells(drawn, grid.tuning.seeds)
        found = median_score(trial, root)
        if found is None:
            return done, trial
        done += [cell for cell in trial if cell not in done]  # a repeated draw is run once
        tried.setdefault(json.dumps(drawn), (found, drawn))
        try:
            drawn = asked.send(found)
        except StopIteration:
            break
    best = sorted(tried.values(), key=lambda pair: pair[0])[: grid.tuning.finalists]
    finalists = [cell for _, drawn in best for cell in cells(drawn, grid.tuning.finalist_seeds)]
    waiting = [cell for cell in finalists if outcome(cell.folder(root)) is None]
    return done + [cell for cell in finalists if cell not in waiting], waiting


def start_of(grid: Grid, setting: dict[str, Any], arm: Arm, root: Path) -> list[dict[str, Any]]:
    """The values of an arm's first trials: the best settings of the reference. An arm with further numbers to draw has two.

    A method therefore cannot lose only because its search missed these settings. In a grid with replicates there are no such
    trials, because each search is independent.
    """
    if grid.tuning is None or arm.name == grid.reference or grid.replicate is not None:
        return []
    key = (grid.name, label(setting), root)
    if key not in _REFERENCES:
        reference = next(one for one in grid.arms if one.name == grid.reference)
        found = best_trial(grid, setting, reference, root)
        if found is None:
            return []
        _REFERENCES[key] = found
    ranges = ranges_of(arm, grid.tuning)
    shared = {name: value for name, value in _REFERENCES[key].items() if name in grid.tuning.common and name in ranges}
    return [shared] * (2 if set(ranges) - set(shared) else 1)


def median_score(cells: Sequence[Cell], root: Path) -> float | None:
    """The median of the runs' scores; `None` if a run is not done."""
    found = [(outcome(cell.folder(root)), read_run(cell.options).epochs) for cell in cells]
    scores = sorted(score(one, epochs) for one, epochs in found if one is not None)
    return scores[len(scores) // 2] if len(scores) == len(cells) else None


def mean_score(cells: Sequence[Cell], root: Path) -> float | None:
    """The restricted mean of the runs' onsets up to their last epoch. Accuracy of runs without an onset decides ties."""
    found = [(outcome(cell.folder(root)), read_run(cell.options).epochs) for cell in cells]
    scores = [score(one, epochs) for one, epochs in found if one is not None]
    if len(scores) < len(cells):
        return None
    ends = [epochs for _, epochs in found]
    means = [min(value, end) + 1e-3 * max(0.0, value - end) for value, end in zip(scores, ends, strict=True)]
    return sum(means) / len(means)


def judged_cells(grid: Grid, root: Path) -> list[Cell]:
    """The runs on the judged seeds. An arm has none until its tuning is complete."""
    cells = []
    for setting in grid.settings:
        for arm in grid.arms:
            drawn = best_trial(grid, setting, arm, root)
            if drawn is not None:
                cells += [
                    Cell(
                        label(setting),
                        arm.name,
                        "judged",
                        drawn,
                        run_options(grid, setting, arm, drawn, seed),
                        grid.replicate or 0,
                    )
                    for seed in grid.seeds
                ]
    return cells


def best_trial(grid: Grid, setting: dict[str, Any], arm: Arm, root: Path) -> dict[str, Any] | None:
    """The finalist with the best median over all seeds of the tuning; `None` before the tuning is complete.

    In a grid with replicates: the finalist with the smallest mean time. A run without an onset counts with its last epoch.
    """
    if grid.tuning is None:
        return {}
    done, waiting = tuning_cells(grid, setting, arm, root)
    if waiting:
        return None
    runs: dict[str, list[Cell]] = {}
    for cell in done:
        runs.setdefault(json.dumps(cell.drawn), []).append(cell)
    longest = max(map(len, runs.values()))  # only finalists have runs on all seeds
    measure = median_score if grid.replicate is None else mean_score
    scored = [(measure(cells, root) or 0.0, cells[0].drawn) for cells in runs.values() if len(cells) == longest]
    return min(scored, key=lambda pair: pair[0])[1]
