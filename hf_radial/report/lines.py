"""Lines over steps: in one panel or in a panel per site, with their legend and their description in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from hf_radial.report.axes import BOUNDED, step_axis, value_axis
from hf_radial.report.canvas import HEIGHT, Drawing, Theme, new_canvas
from hf_radial.runs.files import Floats, Series

POINTS = 2000  # more than a figure has pixels
LEGEND_SITES = 6  # the number of colours; more sites are coloured by their place in the model
PANELS = 8  # sites in one figure of small panels
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def lines_drawing(
    lines: dict[str, Series],
    name: str,
    title: str,
    label: str,
    caption: str,
    log: bool = False,
    errors: float = 0.0,
    compare: tuple[float, str] | None = None,
) -> Drawing | None:
    """One line per entry in one panel: few lines get a legend, many are coloured by their place."""
    lines = {text: series for text, series in lines.items() if np.isfinite(series.values).any()}
    if not lines:
        return None

    def draw(theme: Theme) -> Any:
        many = len(lines) > LEGEND_SITES
        figure, axes = new_canvas(HEIGHT + (0.9 if many else 0.12 * len(lines)))
        if many:
            _coloured_lines(figure, axes, lines, theme)
        else:
            for (text, series), style in zip(lines.items(), line_styles(theme), strict=False):
                draw_line(axes, series, label=text, **style)
                if errors and np.isfinite(series.errors).any():
                    low, high = series.values - errors * series.errors, series.values + errors * series.errors
                    axes.fill_between(series.steps, low, high, color=style["color"], alpha=0.25, lw=0)
        if compare is not None:
            axes.axhline(compare[0], color=theme.ink, lw=1, ls=(0, (2, 2)), label=compare[1])
        axes.set_ylabel(label)
        if not any(word in label for word in BOUNDED):
            value_axis(axes, list(lines.values()), log)
        step_axis(axes, list(lines.values()))
        if len(lines) > 1 or compare is not None:
            draw_legend(figure, axes)
        return figure

    return Drawing(name, title, caption, f"Line chart of {label} against step. {describe_ends(lines)}", draw)


def _coloured_lines(figure: Any, axes: Any, lines: dict[str, Series], theme: Theme) -> None:
    """Lines in the order of the sites from dark to bright, with a scale that names some of them."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    # Leaves out the colours that are as bright, or as dark, as the background.
    low, high = (0.0, 0.88) if theme.name == "light" else (0.2, 1.0)
    colours = colormaps[theme.sequential](np.linspace(low, high, len(lines)))
    for series, colour, style in zip(lines.values(), colours, cycle(STYLES[:2]), strict=False):
        draw_line(axes, series, color=colour, lw=1.2, ls=style)
    scale = ScalarMappable(cmap=ListedColormap(colours))
    scale.set_clim(-0.5, len(lines) - 0.5)
    named = np.unique(np.linspace(0, len(lines) - 1, 8 if len(lines) > 12 else len(lines)).round().astype(int))
    bar = figure.colorbar(scale, ax=axes, ticks=named, aspect=30, pad=0.02)
    bar.ax.set_yticklabels([list(lines)[i] for i in named], fontsize=8.5)
    bar.ax.invert_yaxis()  # the first site above, as in a table
    bar.outline.set_visible(False)


def draw_panels(
    sites: Sequence[str],
    names: dict[str, str],
    panel: Callable[[Any, str, Theme], None],
    theme: Theme,
    label: str,
    series: Sequence[Series],
    legend: bool = True,
) -> Any:
    """Small panels, one per site, with the same axes and one legend."""
    columns = 1 if len(sites) == 1 else 2
    rows = -(-len(sites) // columns)
    figure, grid = new_canvas(HEIGHT + 0.4 if rows == 1 else 1.0 + 1.45 * rows, rows, columns)
    for i, axes in enumerate(np.ravel(grid)):
        if i >= len(sites):
            axes.set_visible(False)
            continue
        panel(axes, sites[i], theme)
        if len(sites) > 1:
            axes.set_title(_clipped(names[sites[i]], 26), fontsize=9.5)
        if legend and not any(word in label for word in BOUNDED):
            value_axis(axes, series)
        # `supxlabel` would lie under a legend outside of the axes.
        lowest = i + columns >= len(sites)
        step_axis(axes, series, ticks=4 if columns > 1 else 6, label="optimizer step" if lowest else "")
        axes.tick_params(labelbottom=lowest, labelleft=i % columns == 0)
    figure.supylabel(label, fontsize=10.5)
    if legend:
        draw_legend(figure, np.ravel(grid)[0])
    return figure


def draw_line(axes: Any, series: Series, **style: Any) -> None:
    keep = thinned(series.values)
    steps, values = series.steps[keep], series.values[keep]
    if len(steps) == 1:
        style["marker"] = "o"
    axes.plot(steps, values, **style)


def thinned(values: Floats, points: int = POINTS) -> Any:
    """The indices of at most `points` values: all of them, or the smallest and largest of every stretch.

    >>> thinned(np.array([0.0, 9.0, 1.0, 1.0, -5.0, 1.0]), points=4).tolist()
    [0, 1, 3, 4]
    """
    if len(values) <= points:
        return np.arange(len(values))
    keep = []
    for stretch in np.array_split(np.arange(len(values)), points // 2):
        part = values[stretch]
        if np.isfinite(part).any():
            keep += [stretch[np.nanargmin(part)], stretch[np.nanargmax(part)]]
    return np.unique(keep)


def line_styles(theme: Theme) -> Iterator[dict[str, Any]]:
    for i in range(10_000):
        yield {"color": theme.colours[i % len(theme.colours)], "ls": STYLES[(i + i // len(theme.colours)) % len(STYLES)]}


def draw_legend(figure: Any, axes: Any, columns: int | None = None) -> None:
    """A legend below the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [_clipped(label, 48) for label in labels]
    if handles:
        fits = columns or (1 if max(map(len, labels)) > 24 else 2)
        figure.legend(handles, labels, loc="outside lower center", ncols=fits, handlelength=2.6, columnspacing=1.2)


def _clipped(text: str, length: int) -> str:
    text = f" {text}" if text.startswith("_") else text  # matplotlib leaves labels with a leading underscore out of a legend
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"


def pages_of_sites(sites: Sequence[str]) -> list[tuple[list[str], str]]:
    """The sites in groups of at most `PANELS`, each with a number for its title."""
    pages = [list(sites[i : i + PANELS]) for i in range(0, len(sites), PANELS)]
    return [(page, f" {i} of {len(pages)}" if len(pages) > 1 else "") for i, page in enumerate(pages, 1)]


def describe_ends(lines: dict[str, Series]) -> str:
    """A description of lines for readers who cannot see them: the ends of each, or the range of many."""
    lines = {name: Series(*(c[np.isfinite(s.values)] for c in s)) for name, s in lines.items()}
    lines = {name: series for name, series in lines.items() if len(series.values)}
    if len(lines) > 2 * LEGEND_SITES:
        ends = [series.values[-1] for series in lines.values()]
        return f"{len(lines)} lines; at the end from {min(ends):.3g} to {max(ends):.3g}."
    told = [
        f"{name} from {line.values[0]:.3g} at step {line.steps[0]:,.0f} to {line.values[-1]:.3g} at {line.steps[-1]:,.0f}"
        for name, line in lines.items()
    ]
    return "; ".join(told) + "." if told else ""
