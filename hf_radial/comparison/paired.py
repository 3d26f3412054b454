"""The paired design: every arm at the same random draws, and statistics of the pairs.

Nothing is tuned. No arm can be lucky in a search, and no best of many trials is judged. In here: the draws, the runs and the
statistics. Not in here: the page (`paired_page`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any

import numpy as np

from hf_radial.comparison.grid import Grid, Paired, run_options
from hf_radial.comparison.grid_checks import bounds
from hf_radial.comparison.trials import Cell, label

RESAMPLES = 100_000  # an end of an interval then differs by less than 0.001 from seed to seed; with 2,000 by 0.002 to 0.005
CHUNK = 10_000  # samples at once
Pair = tuple[float, float]  # times of the arm and of the reference; the horizon for a run without an onset


def draws(paired: Paired, setting: str) -> list[dict[str, Any]]:
    """The draws of one setting: random ones, or every combination of the choices.

    The sampler's seed depends on the setting, so two tasks have no random draw in common.

    >>> paired = Paired(2, {"learning_rate": {"log": [1e-3, 0.1]}, "warmup_steps": {"choices": [0, 100]}})
    >>> draws(paired, "modular") == draws(paired, "modular"), draws(paired, "modular")[0] == draws(paired, "groups")[0]
    (True, False)
    """
    if paired.cross:
        every = product(*(bounds(choice, name)[1] for name, choice in paired.common.items()))
        return [dict(zip(paired.common, values, strict=True)) for values in every for _ in range(paired.draws)]
    digest = sha256(f"{paired.sampler_seed} {setting}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    found = []
    for _ in range(paired.draws):
        drawn: dict[str, Any] = {}
        for name, choice in paired.common.items():
            kind, values = bounds(choice, name)
            place = float(generator.random())
            if kind == "choices":
                drawn[name] = values[int(place * len(values))]
            else:
                low, high = map(math.log, values) if kind == "log" else values
                value = low + place * (high - low)
                drawn[name] = float(f"{math.exp(value) if kind == 'log' else value:.3g}")
        found.append(drawn)
    return found


def paired_cells(grid: Grid) -> list[Cell]:
    """The runs of a grid, ordered by setting and draw, with all arms of a draw together. A partial grid is then comparable."""
    if grid.paired is None:
        return []
    cells = []
    for setting in grid.settings:
        for i, drawn in enumerate(draws(grid.paired, label(setting))):
            for arm in grid.arms:
                options = run_options(grid, setting, arm, drawn, grid.paired.first_seed + i)
                cells.append(Cell(label(setting), arm.name, "paired", drawn, options))
    return cells


def chunks(grid: Grid, size: int) -> list[list[Cell]]:
    """The runs in pieces: `size` draws of one setting (at least 4) with all arms."""
    cells = paired_cells(grid)
    piece = max(size, 4) * len(grid.arms)
    by_setting: dict[str, list[Cell]] = {}
    for cell in cells:
        by_setting.setdefault(cell.setting, []).append(cell)
    return [own[i : i + piece] for own in by_setting.values() for i in range(0, len(own), piece)]


@dataclass(frozen=True)
class PairedRatio:
    """An arm compared with the reference over draws.

    Attributes:
        ratio: geometric mean of (time of the reference / time of the arm); above 1 the arm is earlier. It covers the decided
            draws, which at least one of the two solved. A run without an onset counts with the horizon.
        low, high: its 95 % interval, from a bootstrap over the decided draws of each setting; `None` without a decided draw.
        earlier, later: number of draws in which the arm was earlier, and later.
        draws: number of draws that both arms have.
        p_value: of the sign test over the draws that are not ties; `None` if all are.
    """

    ratio: float | None
    low: float | None
    high: float | None
    earlier: int
    later: int
    draws: int
    p_value: float | None


def pairs_of(rows: Sequence[dict[str, Any]], arm: str, reference: str) -> dict[str, list[Pair]]:
    """For each setting, the times of the arm and of the reference at each draw that both have.

    Times end at the horizon, the last epoch of the runs. A failed run counts with the horizon.
    """
    found: dict[str, list[Pair]] = {}
    for setting in dict.fromkeys(row["setting"] for row in rows):
        times: dict[str, dict[int, float]] = {
            name: {row["seed"]: time_of(row) for row in rows if (row["setting"], row["arm"]) == (setting, name)}
            for name in (arm, reference)
        }
        both = [seed for seed in times[arm] if seed in times[reference]]
        if both:
            found[setting] = [(times[arm][seed], times[reference][seed]) for seed in both]
    return found


def time_of(row: dict[str, Any]) -> float:
    """The onset of a run in epochs. Without an onset: its number of epochs."""
    return float(row["onset"] if row["status"] == "solved" else row["options"]["epochs"])


def compare_paired(pairs: dict[str, list[Pair]], horizons: dict[str, float], seed: int = 0) -> PairedRatio:
    """Compare an arm with a reference over the draws of several settings; see `PairedRatio`.

    Args:
        pairs: from `pairs_of`.
        horizons: setting -> the epoch at which its runs end.

    >>> compare_paired({"x": [(10.0, 20.0), (10.0, 20.0), (300.0, 300.0)]}, {"x": 300.0}).ratio
    2.0
    """
    from scipy import stats

    logs = {
        setting: [
            math.log(min(theirs, horizons[setting]) / min(ours, horizons[setting]))
            for ours, theirs in own
            if min(ours, theirs) < horizons[setting]
        ]
        for setting, own in pairs.items()
    }
    groups = [np.array(own) for own in logs.values() if own]
    every = np.concatenate(groups) if groups else np.array([])
    earlier, later = int((every > 0).sum()), int((every < 0).sum())
    count = sum(map(len, pairs.values()))
    p_value = float(stats.binomtest(earlier, earlier + later).pvalue) if earlier + later else None
    if not groups:
        return PairedRatio(None, None, None, earlier, later, count, p_value)
    draw = np.random.default_rng(seed)
    low, high = np.quantile(np.mean([_means(own, draw) for own in groups], axis=0), [0.025, 0.975])
    ratio = float(np.mean([own.mean() for own in groups]))
    return PairedRatio(math.exp(ratio), math.exp(low), math.exp(high), earlier, later, count, p_value)


def where_both(pairs: dict[str, list[Pair]], horizons: dict[str, float]) -> dict[str, list[Pair]]:
    """The draws that both solved before the horizon."""
    return {setting: [pair for pair in own if max(pair) < horizons[setting]] for setting, own in pairs.items()}


def ratio_of_means(pairs: dict[str, list[Pair]], horizons: dict[str, float], seed: int = 0) -> tuple[float, float, float]:
    """Mean time of the reference / that of the arm, over all draws; and its 95 % interval from a bootstrap over draws.

    A time is a share of its horizon, and settings count alike. A draw that neither solved counts with the horizon for both.

    >>> ratio_of_means({"x": [(20.0, 100.0), (100.0, 100.0)]}, {"x": 100.0})[0].__round__(2)
    1.67
    """
    draw = np.random.default_rng(seed)
    shares = [np.minimum(np.array(own) / horizons[setting], 1.0) for setting, own in pairs.items()]
    ours, theirs = np.mean([own.mean(axis=0) for own in shares], axis=0)
    sampled = np.mean([_means(own, draw, CHUNK) for own in shares], axis=0)
    low, high = np.quantile(sampled[:, 1] / sampled[:, 0], [0.025, 0.975])
    return float(theirs / ours), float(low), float(high)


def _means(own: np.ndarray, draw: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """The mean of each sample of the first axis of `own`; shape (resamples, ...)."""
    size = (CHUNK, len(own))
    return np.concatenate([own[draw.integers(len(own), size=size)].mean(axis=1) for _ in range(resamples // CHUNK)])
