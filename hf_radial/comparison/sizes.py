"""Runs of several model sizes: does an arm generalise earlier than the reference, and does its gain grow with the size?

A row is one run: `size`, `parameters`, `arm`, `seed`, `onset` in steps (`None`: not by `last_step`), `cpu_seconds` until the
onset, `last_cpu_seconds`, the result of `hf_radial.runs.onset.summarise`, its curves, and `run`, its record. Rows are ordered
by size, smallest first.

- An arm *helps* in a size if its onset is earlier than the reference's on every one of at least three seeds. It *harms* if it
  is later on every one. Otherwise it is undecided. A bound (one of the two runs ended without an onset) counts if it decides.
- The gain *grows* if, on each of at least three seeds, the ratio of onsets (reference / arm) is larger in the largest size than
  in the smallest. It *shrinks* if it is smaller on each. Otherwise it is undecided. A bound leaves its seed undecided.

Three of three seeds have a two-sided p of 0.25 in the sign test, which is weak. In here: numbers, table, figure. Not in here:
runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from hf_radial.comparison.statistics import Time, known_interval, speedup
from hf_radial.runs.onset import HELD_OUT_METRIC, first_streak
from hf_radial.runs.results import log_of_row
from hf_radial.safe_files import replacing

Rows = Sequence[dict[str, Any]]
SEEDS_FOR_A_VERDICT = 3
LEVELS = (0.5, 0.9, 0.95, 0.99)  # of held-out exact match; the last one is judged
STREAK = 3  # evaluations in a row


def of(rows: Rows, size: str, arm: str) -> list[dict[str, Any]]:
    """The rows of a size and an arm."""
    return [row for row in rows if (row["size"], row["arm"]) == (size, arm)]


def onsets(rows: Rows, size: str, arm: str) -> list[Time]:
    """Onsets in steps. For a run without an onset: its last evaluation, as a bound."""
    own = of(rows, size, arm)
    return [Time(r["seed"], r["last_step"] if r["onset"] is None else r["onset"], r["onset"] is None) for r in own]


def seconds(rows: Rows, size: str, arm: str) -> list[Time]:
    """CPU seconds until the onset. For a run without an onset: until its last evaluation, as a bound."""
    return [Time(r["seed"], r["cpu_seconds"] or r["last_cpu_seconds"], r["onset"] is None) for r in of(rows, size, arm)]


def ratios(rows: Rows, size: str, arm: str, reference: str) -> dict[int, tuple[float, str]]:
    """By seed: onset of the reference / onset of the arm. Above 1 the arm is earlier.

    The second value is "", or "<" or ">" if the ratio is a bound because one of the two has no onset. If neither has one, there
    is no entry.
    """
    found = {}
    base = {time.seed: time for time in onsets(rows, size, reference)}
    for time in onsets(rows, size, arm):
        if time.seed in base and not (time.censored and base[time.seed].censored):
            bound = "<" if time.censored else ">" if base[time.seed].censored else ""
            found[time.seed] = (base[time.seed].value / time.value, bound)
    return found


def at_level(rows: Rows, level: float, streak: int = STREAK) -> list[dict[str, Any]]:
    """The rows with the onset at another level of held-out exact match, or of fewer evaluations in a row, from their curves."""
    return [{**row, "onset": first_streak(log_of_row(row["curves"]), HELD_OUT_METRIC, level, streak)} for row in rows]


def levels_table(rows: Rows, reference: str, levels: Sequence[float] = LEVELS) -> str:
    """By how much an arm is earlier, by seed, where the onset is at other levels than the judged one; in Markdown.

    The last column has the first single evaluation at the last level instead of several in a row.
    """
    head = [f"{reference} / arm at {level:.0%}".replace("%", " %") for level in levels]
    head += [f"at {levels[-1]:.0%}, one evaluation".replace("%", " %")]
    lines = [f"| size | arm | {' | '.join(head)} |", "|" + "---|" * (2 + len(head))]
    by_level = [*(at_level(rows, level) for level in levels), at_level(rows, levels[-1], streak=1)]
    for size, arm in dict.fromkeys((row["size"], row["arm"]) for row in rows if row["arm"] != reference):
        cells = [_ratios_text(at, size, arm, reference) for at in by_level]
        lines.append(f"| {' | '.join([size, arm, *cells])} |")
    return "\n".join(lines) + "\n"


def _ratios_text(rows: Rows, size: str, arm: str, reference: str) -> str:
    """The ratios by seed; a dash where neither of the two runs has an onset, or where there is no run of the reference."""
    found = ratios(rows, size, arm, reference)
    told = {seed: f"{bound} {ratio:.2f}".strip() for seed, (ratio, bound) in found.items()}
    return ", ".join(told.get(row["seed"], "–") for row in of(rows, size, arm))


def verdict(rows: Rows, size: str, arm: str, reference: str) -> str:
    """Whether an arm helps or harms in a size. The criterion is at the top of this file."""
    by_seed, runs = ratios(rows, size, arm, reference).values(), len(of(rows, size, arm))
    earlier = sum(ratio > 1 and bound != "<" for ratio, bound in by_seed)
    later = sum(ratio < 1 and bound != ">" for ratio, bound in by_seed)
    if runs >= SEEDS_FOR_A_VERDICT and runs in (earlier, later):
        return "helps" if earlier else "harms"
    return f"undecided ({earlier} earlier, {later} later)"


def growth(rows: Rows, arm: str, reference: str, sizes: Sequence[str]) -> str:
    """Whether the ratio of onsets grows from the first size to the last. The criterion is at the top of this file."""
    small, large = (ratios(rows, size, arm, reference) for size in (sizes[0], sizes[-1]))
    pairs = [(small[s][0], large[s][0]) for s in small if s in large and small[s][1] == large[s][1] == ""]
    seeds = {row["seed"] for size in (sizes[0], sizes[-1]) for row in of(rows, size, arm)}
    up, down = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    if len(seeds) >= SEEDS_FOR_A_VERDICT and len(seeds) in (up, down):
        return "grows" if up else "shrinks"
    return f"undecided (larger on {up} and smaller on {down} of {len(pairs)} seeds that reached 99 % in both sizes)"


def table(rows: Rows, reference: str, paper: Mapping[tuple[str, str], int]) -> str:
    """Size and arm against onset, seconds and verdict, in Markdown.

    Args:
        paper: (size, arm) -> the steps that the paper reports.
    """
    lines = [
        "| size | rows | arm | reached 99 % | fit, by seed | held out at the fit | steps to 99 %, by seed | CPU seconds "
        f"| {reference} / arm, by seed | 95 % | verdict | paper: steps | ratio |",
        "|" + "---|" * 13,
    ]
    for size, arm in dict.fromkeys((row["size"], row["arm"]) for row in rows):
        own, times = of(rows, size, arm), onsets(rows, size, arm)
        fits = [Time(r["seed"], r["fit_step"] or r["last_step"], r["fit_step"] is None) for r in own]
        at_fit = [f"{r['held_out_at_fit']:.0%}" for r in own if r["held_out_at_fit"] is not None]
        cells = [size, f"{own[0]['run']['facts']['train_size']:,}", arm]
        cells += [f"{sum(not time.censored for time in times)} of {len(own)}", _by_seed(fits)]
        cells += [", ".join(at_fit) or "–", _by_seed(times), _by_seed(seconds(rows, size, arm))]
        if arm == reference or not of(rows, size, reference):
            cells += ["", "", ""]
        else:
            cells += [_ratios_text(rows, size, arm, reference), _interval_text(_interval(rows, size, arm, reference))]
            cells += [verdict(rows, size, arm, reference)]
        theirs, base = paper.get((size, arm)), paper.get((size, reference))
        cells += [
            "" if theirs is None else f"{theirs:,}",
            f"{base / theirs:.1f}" if base and theirs and arm != reference else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def short_table(rows: Rows, size: str, reference: str, paper: Mapping[tuple[str, str], int]) -> str:
    """One size: onsets by the rule and by one evaluation, seconds, and the steps that the paper reports; in Markdown."""
    one = at_level(rows, LEVELS[-1], streak=1)
    lines = [
        f"| {size} | {STREAK} evaluations in a row at 99 %, step by seed | the first at 99 % | CPU seconds | verdict "
        "| paper: step |",
        "|" + "---|" * 6,
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows if row["size"] == size):
        cells = [arm, _by_seed(onsets(rows, size, arm)), _by_seed(onsets(one, size, arm)), _by_seed(seconds(rows, size, arm))]
        cells += ["" if arm == reference else verdict(rows, size, arm, reference)]
        cells += [f"{paper[size, arm]:,}" if (size, arm) in paper else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(rows: Rows, size: str, arm: str, reference: str) -> tuple[float, float] | None:
    """95 % interval of the ratio of median onsets over seeds: from 0, or to infinity, where one of the two has no median."""
    found = speedup(onsets(rows, size, arm), onsets(rows, size, reference))
    return known_interval(found.low, found.high) if found.pairs >= 2 else None


def _interval_text(interval: tuple[float, float] | None) -> str:
    low, high = interval or (0.0, inf)
    if low and high < inf:
        return f"{low:.2f} to {high:.2f}"
    return f"{low:.2f} or more" if low else f"{high:.2f} or less" if high < inf else "–"


def _by_seed(times: Sequence[Time]) -> str:
    return " / ".join(f"> {time.value:,.0f}" if time.censored else f"{time.value:,.0f}" for time in times)


def draw(rows: Rows, reference: str, path: Path) -> None:
    """Plot the ratios of onsets and the onsets against the number of parameters.

    A point is a seed. A bar is the interval; where that is open, it goes as far as the points.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hf_radial.report.plots import COLOURS

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sizes = {row["size"]: row["parameters"] for row in rows}
    for (i, arm), colour in zip(enumerate(dict.fromkeys(row["arm"] for row in rows)), COLOURS, strict=False):
        right.plot([], [], "o", color=colour, label=arm)
        if arm != reference:
            left.plot([], [], "o", color=colour, label=arm)
        for size in dict.fromkeys(row["size"] for row in rows if row["arm"] == arm):
            x = sizes[size] * 1.1**i
            for j, time in enumerate(onsets(rows, size, arm)):  # side by side: runs that were given up have the same height
                right.plot(x * 1.025**j, time.value, "o", ms=5, color=colour, mfc="none" if time.censored else colour)
            if arm == reference:
                continue
            by_seed = ratios(rows, size, arm, reference).values()
            for ratio, bound in by_seed:
                left.plot(x, ratio, {"": "o", "<": "v", ">": "^"}[bound], color=colour, alpha=0.6)
            if interval := _interval(rows, size, arm, reference):
                ends = [interval[0] or min(ratio for ratio, _ in by_seed), min(interval[1], max(ratio for ratio, _ in by_seed))]
                left.plot([x, x], ends, color=colour)
    left.axhline(1, color="0.3", ls="--", lw=0.8)
    for mark, meaning in (("o", "a seed"), ("^", "at least"), ("v", "at most")):
        left.plot([], [], mark, color="0.4", label=meaning)
    left.plot([], [], "-", color="0.4", label="95 %")
    left.set(ylabel=f"steps to 99 %: {reference} / arm", title="above 1: the arm is earlier")
    right.set(yscale="log", ylabel="steps to 99 %", title="hollow: not by then")
    right.yaxis.set_major_formatter("{x:,.0f}")
    right.yaxis.set_minor_formatter("{x:,.0f}")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="parameters")
        axes.set_xticks([*sizes.values()], [*sizes], minor=False)
        axes.set_xticks([], minor=True)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)
    with replacing(path) as new:
        figure.savefig(new, dpi=90, format=path.suffix.removeprefix("."))
