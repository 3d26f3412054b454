"""Statistics of replicated tunings, with the tuning as the unit: their spread, a test, and values at an edge of a range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from hf_radial.comparison.grid_checks import bounds

EXACT = 14  # up to this number of tunings, the test tries all assignments of signs
SAMPLES = 20_000
EDGE = 0.05  # as a share of the range, on its scale


@dataclass(frozen=True)
class Spread:
    """How much judged times differ, as factors. 1 is no spread.

    Attributes:
        tuning: between tunings, because of tuning alone: the standard deviation of log times without the part that seeds cause.
        seeds: between seeds of one tuning.
    """

    tuning: float
    seeds: float


def spread_of(tunings: Sequence[Sequence[float]]) -> Spread:
    """One-way random effects of log times (method of moments): tunings as groups, seeds within them.

    Args:
        tunings: the times of each tuning's judged runs, the same number for each.

    >>> spread_of([[10.0, 10.0], [20.0, 20.0]]).seeds, round(spread_of([[10.0, 10.0], [20.0, 20.0]]).tuning, 2)
    (1.0, 1.63)
    """
    logs = [np.log(np.asarray(own, dtype=float)) for own in tunings]
    within = float(np.mean([own.var(ddof=1) if len(own) > 1 else 0.0 for own in logs]))
    size = min(map(len, logs))
    between = float(np.var([own.mean() for own in logs], ddof=1)) if len(logs) > 1 else 0.0
    return Spread(math.exp(math.sqrt(max(0.0, between - within / size))), math.exp(math.sqrt(within)))


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value for a mean of 0 of paired differences: the share of random signs with a mean at least as far from 0.

    Exact for up to 14 differences, otherwise from 20,000 draws. Each difference belongs to one tuning.

    >>> sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0])
    0.0625
    """
    values = np.asarray(differences, dtype=float)
    observed = abs(values.mean())
    if len(values) <= EXACT:
        signs = np.array(list(product((1, -1), repeat=len(values))))
        return float((np.abs(signs @ values / len(values)) >= observed - 1e-12).mean())
    signs = np.random.default_rng(seed).choice((-1, 1), size=(SAMPLES, len(values)))
    hits = int((np.abs(signs @ values / len(values)) >= observed - 1e-12).sum())
    return (hits + 1) / (SAMPLES + 1)


def at_edge(drawn: Mapping[str, Any], ranges: Mapping[str, Any]) -> list[str]:
    """The numbers of a draw that lie at an end of their range, as "name low" or "name high".

    >>> at_edge({"x": 0.0101, "n": 300}, {"x": {"log": [0.01, 1]}, "n": {"choices": [10, 30, 300]}})
    ['x low', 'n high']
    """
    found = []
    for name, value in drawn.items():
        if name not in ranges:
            continue
        kind, values = bounds(ranges[name], name)
        if kind == "choices":
            place = values.index(value) / max(1, len(values) - 1)
        else:
            low, high, own = (math.log(one) if kind == "log" else float(one) for one in (*values, value))
            place = (own - low) / (high - low)
        if place <= EDGE or place >= 1 - EDGE:
            found.append(f"{name} {'low' if place <= EDGE else 'high'}")
    return found
