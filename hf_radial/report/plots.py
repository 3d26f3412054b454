"""Figures of runs, from their `log_history`: accuracy, loss, and the radius that the paper never shows.

Needs matplotlib (`pip install hf_radial[plots]`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_radial.report.canvas import COLOURS, new_figure
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, curve, fit_step, onset_step
from hf_radial.safe_files import replacing

Log = Sequence[dict[str, Any]]


def plot_runs(runs: Mapping[str, Log], path: str | Path, title: str = "") -> Path:
    """Draw runs over each other: exact match and loss above, one panel with every site's radius per run below.

    Args:
        runs: label -> `log_history`.
        path: where to write; the ending says the format (`.png`, `.svg`).
        title: the figure's title.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no run is given.
    """
    if not runs:
        raise ValueError("runs is empty; give at least one label and log_history")
    columns = max(2, len(runs))
    figure = new_figure(5.2 * columns, 8)
    grid = figure.add_gridspec(2, columns)
    accuracy, loss = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    for (label, log), colour in zip(runs.items(), _cycle(COLOURS), strict=False):
        _draw_accuracy(accuracy, label, log, colour)
        loss.plot(*curve(log, "task_loss"), color=colour, label=label)
        if any(logs.get("radial_lambda", 0) > 0 for logs in log):
            loss.plot(*curve(log, "loss"), color=colour, ls=":")
    accuracy.set(xlabel="optimizer step", ylabel="exact match", ylim=(-0.02, 1.02), title="solid: held out, dashed: training")
    accuracy.legend(fontsize="small", loc="upper left", bbox_to_anchor=(0, 0.93))
    loss.set(
        xlabel="optimizer step",
        ylabel="training loss (nats per token)",
        yscale="log",
        title="solid: task loss, dotted: with the penalty",
    )
    loss.legend(fontsize="small", loc="lower left")
    first = None
    for i, (label, log) in enumerate(runs.items()):
        first = panel = figure.add_subplot(grid[1, i], sharey=first)
        _draw_radii(panel, log)
        panel.set(xlabel="optimizer step", ylabel="mean radius ||h||", title=f"radius: {label}")
    figure.suptitle(title)
    with replacing(path) as new:
        figure.savefig(new, dpi=120, format=Path(path).suffix.removeprefix(".") or "png")
    return Path(path)


def plot_runs_if_possible(runs: Mapping[str, Log], path: str | Path, title: str = "") -> None:
    """As `plot_runs`; without matplotlib, print that there is no figure. A trained model is not lost for want of one."""
    try:
        plot_runs(runs, path, title)
    except ImportError as missing:
        print(f"no figure {path}: {missing}")


def _draw_accuracy(axes: Any, label: str, log: Log, colour: str) -> None:
    axes.plot(*curve(log, HELD_OUT_METRIC), color=colour, label=label)
    axes.plot(*curve(log, TRAIN_METRIC), color=colour, ls="--", lw=1)
    steps = {"--": fit_step(log) if curve(log, TRAIN_METRIC)[0] else None}
    steps["-"] = onset_step(log, threshold=0.99) if curve(log, HELD_OUT_METRIC)[0] else None
    for style, step in steps.items():
        if step is not None:
            axes.axvline(step, color=colour, ls=style, lw=0.6, alpha=0.6)


def _draw_radii(axes: Any, log: Log) -> None:
    sites = [name.removeprefix("radius/") for logs in log for name in logs if name.startswith("radius/")]
    for site, colour in zip(dict.fromkeys(sites), _cycle(COLOURS), strict=False):
        axes.plot(*curve(log, f"radius/{site}"), color=colour, label=site.removeprefix("transformer."))
    targets = {logs[name] for logs in log for name in logs if name.startswith("radius_target/")}
    for i, target in enumerate(sorted(targets)):
        axes.axhline(target, color="0.3", ls=":", lw=1, label="target" if i == 0 else None)
    if sites:
        axes.legend(fontsize="small")


def _cycle(values: Sequence[str]) -> Any:
    while True:
        yield from values
