"""What can be said of times to an event that some runs never reached: runs that were ended before stay in as *later than that*.

Medians are Kaplan and Meier's, from `scipy.stats.ecdf` for right-censored samples; intervals are bootstraps over seeds; where
both arms have a seed they are compared in pairs. In here: numbers. Not in here: how they are printed (`table`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Time:
    """When a run reached its event, or, if `censored`, until when it had not."""

    seed: int
    value: float
    censored: bool


def survival(times: Sequence[Time]) -> tuple[list[float], list[float]]:
    """The Kaplan-Meier curve: times in order, and the share of runs that have not got there by then."""
    from scipy import stats

    reached = [time.value for time in times if not time.censored]
    if not reached:  # scipy knows no sample without an event
        values = sorted({time.value for time in times})
        return values, [1.0] * len(values)
    data = stats.CensoredData(uncensored=reached, right=[time.value for time in times if time.censored])
    curve = stats.ecdf(data).sf
    return curve.quantiles.tolist(), curve.probabilities.tolist()


def median_time(times: Sequence[Time]) -> float | None:
    """The Kaplan-Meier median: the first time by which half of the runs have got there; `None` if they had not.

    >>> median_time([Time(0, 100, False), Time(1, 140, False), Time(2, 300, True)])
    140.0
    >>> median_time([Time(0, 100, False), Time(1, 300, True), Time(2, 300, True)]) is None
    True
    """
    return next((value for value, share in zip(*survival(times), strict=True) if share <= 0.5 + 1e-9), None)


@dataclass(frozen=True)
class Speedup:
    """How many times sooner than a reference an arm gets there.

    Attributes:
        ratio: the reference's median by the arm's; infinite where only the arm has one, zero where only the reference has one,
            `None` where neither has.
        low, high: 95 % interval of it over resampled seeds (percentiles; with five seeds, a rough one), without those
            samples in which neither has a median.
        sooner, pairs: of how many seeds that both have, the arm was certainly the sooner one; ties and pairs that were
            both ended before count as not.
        later: the same for the reference.
        p_value: of the sign test over the pairs that are decided, two-sided; `None` without any.
    """

    ratio: float | None
    low: float | None
    high: float | None
    sooner: int
    later: int
    pairs: int
    p_value: float | None


def speedup(arm: Sequence[Time], reference: Sequence[Time], seed: int = 0) -> Speedup:
    """Compare an arm with a reference; see `Speedup`.

    >>> ours = [Time(i, 100 + i, False) for i in range(5)]
    >>> theirs = [Time(i, 200 + 2 * i, False) for i in range(4)] + [Time(4, 500, True)]
    >>> found = speedup(ours, theirs)
    >>> round(found.ratio, 2), found.sooner, found.later, found.pairs, found.p_value
    (2.0, 5, 0, 5, 0.0625)
    """
    from scipy import stats

    others = {time.seed: time for time in reference}
    pairs = [(time, others[time.seed]) for time in arm if time.seed in others]
    sooner = sum(_certainly_sooner(ours, theirs) for ours, theirs in pairs)
    later = sum(_certainly_sooner(theirs, ours) for ours, theirs in pairs)
    decided = sooner + later
    p_value = float(stats.binomtest(sooner, decided).pvalue) if decided else None
    draw = np.random.default_rng(seed)
    ratios = []
    for _ in range(RESAMPLES):
        if pairs:  # the pairs are resampled: what a seed does to both arms is no difference between them
            picked = draw.integers(len(pairs), size=len(pairs))
            ours, theirs = [pairs[i][0] for i in picked], [pairs[i][1] for i in picked]
        else:
            ours = [arm[i] for i in draw.integers(len(arm), size=len(arm))]
            theirs = [reference[i] for i in draw.integers(len(reference), size=len(reference))]
        one = _ratio(ours, theirs)
        if one is not None:
            ratios.append(one)
    ratios.sort()
    low = ratios[int(0.025 * len(ratios))] if ratios else None
    high = ratios[min(int(0.975 * len(ratios)), len(ratios) - 1)] if ratios else None
    return Speedup(_ratio(arm, reference), low, high, sooner, later, len(pairs), p_value)


def _certainly_sooner(a: Time, b: Time) -> bool:
    return not a.censored and a.value < b.value


def _ratio(arm: Sequence[Time], reference: Sequence[Time]) -> float | None:
    ours, theirs = _fast_median(arm), _fast_median(reference)
    if ours is None:
        return None if theirs is None else 0.0
    return math.inf if theirs is None else theirs / ours


def _fast_median(times: Sequence[Time]) -> float | None:
    """`median_time`, written out: the product-limit estimate."""
    survival, at_risk = 1.0, len(times)
    # At one time, those that got there come before those that were only watched until then.
    for time in sorted(times, key=lambda time: (time.value, time.censored)):
        if not time.censored:
            survival *= 1 - 1 / at_risk
            if survival <= 0.5 + 1e-9:
                return time.value
        at_risk -= 1
    return None
