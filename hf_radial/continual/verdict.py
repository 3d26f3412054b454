"""Differences between arms with intervals over replicates, and the study's criteria: yes, no or undecided.

In here: numbers. Not in here: their text (`page`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_radial.comparison.replicates import sign_flip_test

RESAMPLES = 10_000
FREE = 0.01  # how much lower current accuracy may be, and how large a gain must be to matter
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs.

    Attributes:
        value: mean over replicates of the mean over seeds.
        low, high: 95 % bootstrap interval, which resamples replicates, and pairs of runs of one seed within each.
        p_value: two-sided exact sign-flip test over the replicates.
        replicates: how many.
    """

    value: float
    low: float
    high: float
    p_value: float
    replicates: int


def difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], seed: int = 0) -> Difference:
    """Compare two arms that have the same replicates and, within each, the same seeds in the same order.

    Raises:
        ValueError: there are no replicates, or their runs are not in pairs.

    >>> found = difference([[2.0, 3.0], [4.0, 5.0]], [[1.0, 1.0], [2.0, 2.0]])
    >>> found.value, found.low, found.high, found.p_value
    (2.0, 1.25, 2.75, 0.5)
    """
    if not ours or len({len(own) for own in [*ours, *theirs]}) > 1 or len(ours) != len(theirs):
        raise ValueError(
            f"ours has {[len(own) for own in ours]} runs in its replicates and theirs {[len(own) for own in theirs]}; they "
            "must be the same for all, and at least one"
        )
    pairs = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)  # (replicates, seeds)
    replicates, seeds = pairs.shape
    draw = np.random.default_rng(seed)
    picked = draw.integers(replicates, size=(RESAMPLES, replicates, 1))
    found = pairs[picked, draw.integers(seeds, size=(RESAMPLES, replicates, seeds))].mean((1, 2))
    means = pairs.mean(1).tolist()
    low, high = np.quantile(found, [0.025, 0.975])
    return Difference(float(np.mean(means)), float(low), float(high), sign_flip_test(means), replicates)


def values_of(rows: Sequence[Row], stage: str, arm: str, name: str, **same: Any) -> dict[int, dict[int, float]]:
    """Replicate -> seed -> a number of an arm's runs."""
    found: dict[int, dict[int, float]] = {}
    for row in rows:
        drawn = row["drawn"]
        if (row["stage"], row["arm"]) == (stage, arm) and all(drawn.get(key) == value for key, value in same.items()):
            found.setdefault(row["replicate"], {})[row["seed"]] = float(row[name])
    return found


def compare(rows: Sequence[Row], stage: str, ours: str, theirs: str, name: str, **same: Any) -> Difference | None:
    """`difference` of two arms in the replicates and seeds that both have; `None` without any.

    The published stage has no tuning: there each pair of runs of one seed is a replicate.
    """
    a, b = (values_of(rows, stage, arm, name, **same) for arm in (ours, theirs))
    if stage == "published":
        a, b = ({seed: {0: value} for own in one.values() for seed, value in own.items()} for one in (a, b))
    pairs = [
        [(own[seed], b[replicate][seed]) for seed in sorted(own) if seed in b[replicate]]
        for replicate, own in sorted(a.items())
        if replicate in b
    ]
    pairs = [own for own in pairs if own]
    if not pairs:
        return None
    return difference([[x for x, _ in own] for own in pairs], [[y for _, y in own] for own in pairs])


def better(retention: Difference, current: Difference) -> str:
    """The rule of the study file: is an arm better in retention, at equal current accuracy?

    >>> better(Difference(0.1, 0.05, 0.15, 0.06, 5), Difference(0.0, -0.01, 0.01, 1.0, 5))
    'yes'
    >>> better(Difference(0.0, -0.01, 0.005, 1.0, 5), Difference(0.0, -0.01, 0.01, 1.0, 5))
    'no'
    """
    if retention.low > 0 and current.value >= -FREE:
        return "yes"
    return "no" if retention.high < FREE else "undecided"


def direction(found: Sequence[tuple[Difference, Difference]]) -> str:
    """The rule for the published settings, from retention and current accuracy at each learning rate."""
    above = [retention.low > 0 for retention, _ in found]
    if all(above) and all(current.value >= -FREE for _, current in found):
        return "yes"
    return "undecided" if any(above) else "no"
