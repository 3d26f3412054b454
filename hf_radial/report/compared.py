"""Figures of several runs over each other, a line per group of runs that differ only in their seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from hf_radial.report.axes import BOUNDED, step_axis, value_axis
from hf_radial.report.canvas import HEIGHT, Drawing, Theme, new_canvas
from hf_radial.report.captions import COMPARED, SITE_LINES
from hf_radial.report.lines import describe_ends, draw_legend, draw_line, draw_panels, line_styles, pages_of_sites
from hf_radial.runs.files import Group, Run, Series, band, short_names
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, check_metrics, onset_step


def comparisons(
    groups: Sequence[Group], train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC
) -> list[Drawing]:
    """Figures with all groups of runs over each other: a line is a group's median, its band the smallest to the largest."""
    found = [compare_accuracy(groups, train_metric, held_out_metric), compare_loss(groups)]
    found += [_compare(groups, metric, *spec) for metric, spec in COMPARED.items()]
    medians = any(run.sites("radius_q50") for group in groups for run in group.runs)
    for metric in ("radius_q50" if medians else "radius_mean", "radial_energy", "effective_rank", "fourier_r2"):
        found += _compare_sites(groups, metric)
    return [drawing for drawing in found if drawing is not None]


def compare_accuracy(
    groups: Sequence[Group], train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC
) -> Drawing | None:
    """Held-out accuracy of groups of runs, with thin lines of training accuracy and every run's onset."""
    drawing = _overlay(
        groups,
        lambda run: run.logged(held_out_metric),
        "compare_accuracy",
        "Held-out accuracy of all runs",
        "accuracy (fraction)",
        "Thin pale lines are training accuracy, and a triangle is one run's onset: how far it is from the rise of the thin "
        "line of its colour is the delay.",
        thin=lambda run: run.logged(train_metric),
        marks=lambda run: _onset(run, held_out_metric),
        ylim=(-0.03, 1.03),
    )
    return drawing


def compare_loss(groups: Sequence[Group]) -> Drawing | None:
    """The training loss of groups of runs; the task loss if the log has it."""
    caption = "The loss of training batches, of the task alone where the log has it; both axes are logarithmic."

    def task_loss(run: Run) -> Series:
        alone = run.logged("task_loss")
        return alone if len(alone.steps) else run.logged("loss")

    return _overlay(groups, task_loss, "compare_loss", "Training loss of all runs", "loss (nats)", caption, log=True)


def _lines_are(groups: Sequence[Group]) -> str:
    """What a line shows: several seeds, or one run."""
    if any(len(group.runs) > 1 for group in groups):
        return "A line is the median of runs that differ only in their seed, its band the smallest to the largest of them."
    return "A line is one run."


def _compare(groups: Sequence[Group], metric: str, title: str, label: str, caption: str) -> Drawing | None:
    return _overlay(groups, lambda run: run.series(metric), f"compare_{metric}", f"{title} of all runs", label, caption)


def _compare_sites(groups: Sequence[Group], metric: str) -> list[Drawing | None]:
    title, label, compare, caption = SITE_LINES.get(metric) or (
        f"{'Median' if metric == 'radius_q50' else 'Mean'} radius",
        "radius ||h||",
        None,
        "The length of the hidden vectors. Look whether it goes on growing after the fit, and where a penalty holds it.",
    )
    sites = list(dict.fromkeys(site for group in groups for run in group.runs for site in run.sites(metric)))
    names = short_names(sites)
    if sum(any(run.sites(metric) for run in group.runs) for group in groups) < 2 and len(groups) > 1:
        return []

    def page(sites: Sequence[str], number: str) -> Drawing:
        def panel(axes: Any, site: str, theme: Theme) -> None:
            for group, style in zip(groups, line_styles(theme), strict=False):
                _draw_group(axes, group, partial(Run.series, metric=metric, site=site), style)
            if compare is not None:
                axes.axhline(compare[0], color=theme.ink, lw=1, ls=(0, (2, 2)), label=compare[1])

        every = [run.series(metric, site) for site in sites for group in groups for run in group.runs]
        lines = {
            f"{group.label}, {names[site]}": _median(group, partial(Run.series, metric=metric, site=site))
            for site in sites
            for group in groups
        }
        return Drawing(
            f"compare_{metric}{number.replace(' ', '_')}",
            f"{title} of all runs, per site{number}",
            f"{caption} {_lines_are(groups)} Each panel is one site.",
            f"{len(sites)} panels of {label} against step. {describe_ends(lines)}",
            lambda theme: draw_panels(sites, names, panel, theme, label, every),
        )

    return [page(sites, number) for sites, number in pages_of_sites(sites)]


def _overlay(
    groups: Sequence[Group],
    get: Callable[[Run], Series],
    name: str,
    title: str,
    label: str,
    caption: str,
    thin: Callable[[Run], Series] | None = None,
    marks: Callable[[Run], int | None] | None = None,
    log: bool = False,
    ylim: tuple[float, float] | None = None,
) -> Drawing | None:
    every = [get(run) for group in groups for run in group.runs]
    if not any(len(series.steps) for series in every):
        return None

    def draw(theme: Theme) -> Any:
        figure, axes = new_canvas(HEIGHT + 0.22 * min(len(groups), 12))
        for group, style in zip(groups, line_styles(theme), strict=False):
            if thin is not None:
                for run in group.runs:
                    draw_line(axes, thin(run), color=style["color"], lw=0.9, alpha=0.5)
            _draw_group(axes, group, get, style)
            for run in group.runs if marks is not None else ():
                step = marks(run) if marks is not None else None
                if step is not None:
                    axes.plot([step], [0.9], marker="^", ms=7, color=style["color"], mec=theme.ink, mew=0.7, zorder=5)
        axes.set(ylabel=label)
        if ylim:
            axes.set_ylim(*ylim)
        elif not any(word in label for word in BOUNDED):
            value_axis(axes, every, log)
        step_axis(axes, every)
        draw_legend(figure, axes, columns=1)
        return figure

    ends = describe_ends({group.label: _median(group, get) for group in groups})
    alt = f"Line chart of {label} against step, a line per group of runs. {ends}"
    return Drawing(name, title, f"{caption} {_lines_are(groups)}", alt, draw)


def _draw_group(axes: Any, group: Group, get: Callable[[Run], Series], style: dict[str, Any]) -> None:
    members = [series for series in map(get, group.runs) if len(series.steps)]
    steps, median, low, high = band(members)
    count = f" ({len(members)} seeds)" if len(members) > 1 else ""
    draw_line(axes, Series(steps, median, median), label=group.label + count, **style)
    if len(members) > 1:
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, lw=0)
        for series in members:  # members that trained longer than the shortest
            after = series.steps >= (steps[-1] if len(steps) else -np.inf)
            if after.sum() > 1:
                draw_line(axes, Series(*(column[after] for column in series)), color=style["color"], lw=0.8, alpha=0.7)


def _median(group: Group, get: Callable[[Run], Series]) -> Series:
    steps, median, _, _ = band([get(run) for run in group.runs])
    return Series(steps, median, median)


def _onset(run: Run, metric: str) -> int | None:
    try:
        check_metrics(run.log, held_out_metric=metric)
    except ValueError:
        return None
    return onset_step(run.log, metric)
