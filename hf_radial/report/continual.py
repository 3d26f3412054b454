"""Figures of a sequence of tasks: the matrix task by time as a heat map, and lines over the tasks.

heat_map({"run": matrix_of(read_table(folder / "geometry.parquet"))}).render()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_radial.geometry.reading import Table
from hf_radial.report.canvas import WIDTH, Drawing, Theme, new_figure
from hf_radial.runs.files import Floats

DASHES = ("solid", "dashed", "dotted", "dashdot")


def matrix_of(table: Table) -> Floats:
    """The accuracy matrix `(T, T)` that a `ContinualCallback` wrote into a table; NaN where it was not measured."""
    names = ("step", "metric", "index", "value")
    rows = [
        (step, index, value)
        for step, metric, index, value in zip(*(table.columns[name] for name in names), strict=True)
        if metric == "task_accuracy"
    ]
    steps = sorted({step for step, _, _ in rows})
    matrix = np.full((len(steps), len(steps)), np.nan)
    for step, index, value in rows:
        matrix[steps.index(step), index] = value
    return matrix


def heat_map(matrices: Mapping[str, Floats]) -> Drawing:
    """Accuracy on each task (down) after each task (to the right): one panel for each run, on one scale.

    Args:
        matrices: name of a run -> `(T, T)`, entry `[i, j]` the accuracy on task j after task i. Times with no measurement but
            that of the own task are left out.
    """

    def draw(theme: Theme) -> Any:
        rows = -(-len(matrices) // 2)
        figure = new_figure(WIDTH * (2 if len(matrices) > 1 else 1), 3.4 * rows)
        axes = figure.subplots(rows, min(2, len(matrices)), squeeze=False, sharex=True, sharey=True).ravel()
        for place, (name, matrix) in zip(axes, matrices.items(), strict=False):
            known = np.isfinite(matrix).sum(1) > 1
            known[0] = True
            after = np.flatnonzero(known)
            edges = np.concatenate([[after[0]], after[1:], [len(matrix)]]) + 0.5
            image = place.pcolormesh(
                edges, np.arange(len(matrix) + 1) + 0.5, matrix[after].T, cmap=theme.sequential, vmin=0, vmax=1, rasterized=True
            )
            place.set_title(name)
            place.grid(False)
            place.invert_yaxis()
        for place in axes[len(matrices) :]:
            place.set_axis_off()
        figure.supxlabel("after task")
        figure.supylabel("accuracy on task")
        bar = figure.colorbar(image, ax=list(axes[: len(matrices)]), aspect=40, pad=0.02)
        bar.set_label("held-out accuracy (fraction)")
        bar.outline.set_visible(False)
        return figure

    ends = "; ".join(f"{name} {np.nanmean(matrix[-1, :-1]):.2f}" for name, matrix in matrices.items())
    return Drawing(
        "task_by_time",
        "What is kept of each task",
        "Each row is a task, time runs to the right, and bright means that the task is known. A task begins on the diagonal. A "
        "row that stays bright is kept; a row that fades at once is forgotten.",
        f"Heat map of accuracy by task and time. Mean over earlier tasks at the end: {ends}.",
        draw,
    )


def over_tasks(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    name: str,
    title: str,
    label: str,
    caption: str,
    limits: tuple[float, float] | None = None,
) -> Drawing:
    """A number over the tasks, one line for each arm.

    Args:
        lines: arm -> number of each task, from 1, and the value there.
        name, title, label, caption: of the figure; `label` is that of the vertical axis, with its unit.
        limits: of the vertical axis.
    """

    def draw(theme: Theme) -> Any:
        figure = new_figure(2 * WIDTH, 3.8)
        axes = figure.subplots()
        for i, (arm, (tasks, values)) in enumerate(lines.items()):
            style = DASHES[i // len(theme.colours)]
            axes.plot(tasks, values, label=arm, color=theme.colours[i % len(theme.colours)], linestyle=style)
        axes.set_xlabel("tasks so far")
        axes.set_ylabel(label)
        if limits is not None:
            axes.set_ylim(*limits)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return figure

    ends = "; ".join(f"{arm} {values[-1]:.3g}" for arm, (_, values) in lines.items())
    return Drawing(name, title, caption, f"Lines over the tasks. At the end: {ends}.", draw)
