"""Axes of figures: logarithmic steps and values with round numbers on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hf_radial.runs.files import Floats, Series

# Words in labels of values between 0 and 1. A logarithmic axis would only enlarge those near 0.
BOUNDED = ("fraction", "probability", "= same", "cosine")


def step_axis(
    axes: Any, series: Sequence[Series], epochs: float | None = None, ticks: int = 6, label: str = "optimizer step"
) -> None:
    """A logarithmic axis of steps. If there is a measurement at step 0, it is linear up to the first step."""
    steps = np.concatenate([one.steps for one in series])
    positive = steps[steps > 0]
    if not len(positive):
        axes.set_xlabel(label)
        return
    low, high = float(positive.min()), float(positive.max())
    set_log_scale(axes.xaxis, low, high, bool((steps <= 0).any()), ticks, compact)
    axes.set_xlabel(label)
    if epochs is not None:
        top = axes.twiny()
        top.grid(False)
        top.spines["top"].set_visible(True)
        set_log_scale(top.xaxis, low * epochs, high * epochs, bool((steps <= 0).any()), ticks, compact)
        top.set_xlim(*(limit * epochs for limit in axes.get_xlim()))
        top.set_xlabel("epoch")


def set_log_scale(axis: Any, low: float, high: float, zero: bool, ticks: int, text: Callable[[float], str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes, which = axis.axes, axis.axis_name
    scale = {"value": "symlog", "linthresh": low, "linscale": 0.3} if zero else {"value": "log"}
    getattr(axes, f"set_{which}scale")(**scale)
    margin = (high / low) ** 0.03 if high > low else 1.5
    getattr(axes, f"set_{which}lim")(-0.15 * low if zero else low / margin, high * margin)
    places = ([0.0] if zero else []) + round_numbers(low, high, ticks - zero)
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from `low` to `high`, spread over a logarithmic axis.

    >>> round_numbers(30, 4000, 5)
    [30.0, 100.0, 300.0, 1000.0, 3000.0]
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        found = [value for value in found if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found if len(found) > 1 else [low, high] if high > low * 1.2 else [low]
    return found[:: -(-len(found) // most)]


def compact(value: float) -> str:
    """A number in the short form of an axis.

    >>> compact(0), compact(2500), compact(20_000), compact(0.25), compact(3e-5)
    ('0', '2500', '20k', '0.25', '3e-5')
    """
    size = abs(value)
    if value == 0:
        return "0"
    if 1e4 <= size < 1e10:
        power = 3 * int(np.log10(size) // 3)
        return f"{value / 10**power:.3g}{ {3: 'k', 6: 'M', 9: 'G'}[power] }"
    if 1e-3 <= size < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2g}".split("e") if "e" in f"{value:.2g}" else f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def value_axis(axes: Any, series: Sequence[Series], log: bool = False) -> None:
    """Make the axis logarithmic if `log`, or if the values are positive and span more than a factor of 30."""
    values = np.concatenate([one.values for one in series])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if not len(positive):
        return
    low, high = float(positive.min()), float(positive.max())
    if len(positive) == len(values) and (log or high > 30 * low) and high > 1.001 * low:
        set_log_scale(axes.yaxis, low, high, False, 6, compact)
        bottom, top = axes.dataLim.intervaly if np.isfinite(axes.dataLim.intervaly).all() else (low, high)
        if bottom > 0:  # bands and lines for comparison must be visible too
            bottom, top = min(bottom, low), max(top, high)
            margin = max(1.15, (top / bottom) ** 0.04)  # otherwise a line at the edge is cut in half
            axes.set_ylim(bottom / margin, top * margin)
    elif len(positive) < len(values) and high > 1000:
        axes.set_yscale("symlog", linthresh=high / 1000)
        places = [0.0, *round_numbers(high / 1000, high, 4)]
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes.yaxis.set_major_locator(FixedLocator(places))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def cell_edges(centres: Floats) -> Floats:
    """The edges of cells around the centres, for `pcolormesh`."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    between = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[max(2 * centres[0] - between[0], 0)], between, [2 * centres[-1] - between[-1]]])
