"""Statistics of times to an event that some runs never reached. Such a run counts as *later than its end* (censored).

Medians are Kaplan-Meier medians, from `scipy.stats.ecdf` for right-censored samples. Intervals are bootstraps over seeds. Seeds
that both arms have are compared in pairs. In here: numbers. Not in here: printing (`table`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Time:
    """The time when a run reached its event; if `censored`, the time until which it had not."""

    seed: int
    value: float
    censored: bool


def survival(times: Sequence[Time]) -> tuple[list[float], list[float]]:
    """The Kaplan-Meier curve: times in order, and the share of runs that have not reached the event by then."""
    from scipy import stats

    reached = [time.value for time in times if not time.censored]
    if not reached:  # scipy accepts no sample without an event
        values = sorted({time.value for time in times})
        return values, [1.0] * len(values)
    data = stats.CensoredData(uncensored=reached, right=[time.value for time in times if time.censored])
    curve = stats.ecdf(data).sf
    return curve.quantiles.tolist(), curve.probabilities.tolist()


def median_time(times: Sequence[Time]) -> float | None:
    """The Kaplan-Meier median: the first time by which half of the runs have reached the event; `None` if fewer have.

    >>> median_time([Time(0, 100, False), Time(1, 140, False), Time(2, 300, True)])
    140.0
    >>> median_time([Time(0, 100, False), Time(1, 300, True), Time(2, 300, True)]) is None
    True
    """
    return next((value for value, share in zip(*survival(times), strict=True) if share <= 0.5 + 1e-9), None)


@dataclass(frozen=True)
class Speedup:
    """How many times earlier than a reference an arm reaches the event.

    Attributes:
        ratio: median of the reference / median of the arm; infinite if only the arm has a median, zero if only the reference
            has one, `None` if neither has.
        low, high: its 95 % interval over resampled seeds (percentiles; a rough one with five seeds). A sample in which neither
            has a median counts at both ends: its ratio may be anything.
        earlier, pairs: number of seeds on which the arm was certainly earlier, and number of seeds that both have. Ties, and
            pairs in which both are censored, do not count as earlier.
        later: number of seeds on which the reference was certainly earlier.
        p_value: two-sided, of the sign test over the decided pairs; `None` if there are none.
    """

    ratio: float | None
    low: float
    high: float
    earlier: int
    later: int
    pairs: int
    p_value: float | None


def speedup(arm: Sequence[Time], reference: Sequence[Time], seed: int = 0) -> Speedup:
    """Compare an arm with a reference; see `Speedup`.

    >>> ours = [Time(i, 100 + i, False) for i in range(5)]
    >>> theirs = [Time(i, 200 + 2 * i, False) for i in range(4)] + [Time(4, 500, True)]
    >>> found = speedup(ours, theirs)
    >>> round(found.ratio, 2), found.earlier, found.later, found.pairs, found.p_value
    (2.0, 5, 0, 5, 0.0625)
    """
    from scipy import stats

    others = {time.seed: time for time in reference}
    pairs = [(time, others[time.seed]) for time in arm if time.seed in others]
    earlier = sum(_certainly_earlier(ours, theirs) for ours, theirs in pairs)
    later = sum(_certainly_earlier(theirs, ours) for ours, theirs in pairs)
    decided = earlier + later
    p_value = float(stats.binomtest(earlier, decided).pvalue) if decided else None
    draw = np.random.default_rng(seed)
    if pairs:  # resample pairs: an effect of a seed on both arms is not a difference between them
        arms, picked = tuple(zip(*pairs, strict=True)), [draw.integers(len(pairs), size=(RESAMPLES, len(pairs)))] * 2
    else:
        arms = tuple(arm), tuple(reference)
        sizes = [len(own) for own in arms]
        drawn = [[draw.integers(size, size=size) for size in sizes] for _ in range(RESAMPLES)]
        picked = [np.array(own) for own in zip(*drawn, strict=True)]
    ours, theirs = map(_medians, arms, picked)
    with np.errstate(invalid="ignore"):  # neither has a median
        found = theirs / ours
    # Where neither has a median, the ratio may be anything: such a sample counts at both ends.
    lows, highs = (np.sort(np.where(np.isnan(found), end, found)) for end in (0.0, math.inf))
    low, high = float(lows[int(0.025 * RESAMPLES)]), float(highs[int(0.975 * RESAMPLES)])
    return Speedup(_ratio(arm, reference), low, high, earlier, later, len(pairs), p_value)


def known_interval(low: float, high: float) -> tuple[float, float] | None:
    """An interval of ratios, or `None` if it says nothing: both ends are open, or all medians lie beyond the end of the runs.

    >>> known_interval(1.2, math.inf), known_interval(0.0, math.inf), known_interval(math.inf, math.inf)
    ((1.2, inf), None, None)
    """
    return None if low == math.inf or high == 0 or (low, high) == (0, math.inf) else (low, high)


def _certainly_earlier(a: Time, b: Time) -> bool:
    return not a.censored and a.value < b.value


def _ratio(arm: Sequence[Time], reference: Sequence[Time]) -> float | None:
    ours, theirs = _fast_median(arm), _fast_median(reference)
    if ours is None:
        return None if theirs is None else 0.0
    return math.inf if theirs is None else theirs / ours


def _fast_median(times: Sequence[Time]) -> float | None:
    """`median_time` computed directly, by the product-limit estimate."""
    survival, at_risk = 1.0, len(times)
    # At the same time, events come before censored runs.
    for time in sorted(times, key=lambda time: (time.value, time.censored)):
        if not time.censored:
            survival *= 1 - 1 / at_risk
            if survival <= 0.5 + 1e-9:
                return time.value
        at_risk -= 1
    return None


def _medians(times: Sequence[Time], picked: np.ndarray) -> np.ndarray:
    """`_fast_median` of each sample, a row of indices into `times`; infinite where there is none."""
    order = sorted(range(len(times)), key=lambda i: (times[i].value, times[i].censored))
    values = np.array([times[i].value for i in order], dtype=float)
    events = np.array([not times[i].censored for i in order])
    samples = np.sort(np.argsort(order)[picked], axis=1)
    survival = np.where(events[samples], 1 - 1 / np.arange(len(times), 0, -1), 1.0).cumprod(axis=1)
    reached = survival <= 0.5 + 1e-9
    first = samples[np.arange(len(samples)), reached.argmax(axis=1)]
    return np.where(reached.any(axis=1), values[first], math.inf)


# Tunings ----------------------------------------------------------------------------------------------------------------

Measure = Callable[[Sequence[Time]], float]


@dataclass(frozen=True)
class Tuning:
    """The judged runs of one tuning of an arm and of one tuning of the reference, on one task."""

    task: str
    arm: tuple[Time, ...]
    reference: tuple[Time, ...]


@dataclass(frozen=True)
class Ratio:
    """Time of the reference / time of the arm (above 1 the arm is earlier), with a 95 % interval."""

    value: float
    low: float
    high: float


def bounded_median(times: Sequence[Time]) -> float:
    """The median time. If fewer than half of the runs reached the event: the end of the longest run, as a bound.

    >>> bounded_median([Time(0, 100, False), Time(1, 300, True), Time(2, 300, True)])
    300
    """
    found = _fast_median(times)
    return max(time.value for time in times) if found is None else found


def restricted_mean(horizon: float) -> Measure:
    """A measure: the mean of times up to a horizon, the area under the Kaplan-Meier curve (Royston and Parmar 2013).

    A run without an event counts with the horizon. Unlike a median, this mean always exists, and it depends on every run.

    >>> restricted_mean(300)([Time(0, 100, False), Time(1, 300, True), Time(2, 350, False)])
    233.33333333333334
    """

    def measure(times: Sequence[Time]) -> float:
        area, share, at_risk, last = 0.0, 1.0, len(times), 0.0
        for time in sorted(times, key=lambda time: (time.value, time.censored)):
            if time.value >= horizon:
                break
            if not time.censored:
                area += share * (time.value - last)
                share *= 1 - 1 / at_risk
                last = time.value
            at_risk -= 1
        return area + share * (horizon - last)

    return measure


def ratio_of_tunings(tunings: Sequence[Tuning], measure: Measure = bounded_median) -> float:
    """Measure of the reference / measure of the arm, as a geometric mean over the tunings of a task, then over tasks."""
    logs: dict[str, list[float]] = {}
    for one in tunings:
        logs.setdefault(one.task, []).append(math.log(measure(one.reference) / measure(one.arm)))
    return math.exp(sum(sum(own) / len(own) for own in logs.values()) / len(logs))


def hierarchical(tunings: Sequence[Tuning], measure: Measure = bounded_median, tasks: bool = True, seed: int = 0) -> Ratio:
    """A speed-up with a bootstrap interval that resamples tasks, tunings within a task, and seeds within a tuning.

    Seeds that the arm and the reference share are resampled together. A level with one member shows no spread. With one tuning
    per task, the interval therefore contains the luck of tuning only as far as it differs between tasks.

    Args:
        measure: of the times of one arm and one tuning.
        tasks: whether to resample the tasks too. If not, the interval holds for these tasks only.

    Raises:
        ValueError: there are no tunings.
    """
    if not tunings:
        raise ValueError("tunings is empty; give at least one")
    draw = np.random.default_rng(seed)
    by_task: dict[str, list[Tuning]] = {}
    for one in tunings:
        by_task.setdefault(one.task, []).append(one)
    groups = [[(one, _pairs(one)) for one in own] for own in by_task.values()]
    found = []
    for _ in range(RESAMPLES):
        picked = [groups[i] for i in draw.integers(len(groups), size=len(groups))] if tasks else groups
        logs = []
        for own in picked:
            ratios = []
            for i in draw.integers(len(own), size=len(own)):
                tuning, pairs = own[i]
                arm, reference = _resampled(tuning, pairs, draw)
                ratios.append(math.log(measure(reference) / measure(arm)))
            logs.append(sum(ratios) / len(ratios))
        found.append(math.exp(sum(logs) / len(logs)))
    found.sort()
    return Ratio(ratio_of_tunings(tunings, measure), found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES)])


def _pairs(one: Tuning) -> list[tuple[Time, Time]]:
    """The times of the arm and of the reference on each seed, if both have the same seeds."""
    others = {time.seed: time for time in one.reference}
    pairs = [(time, others[time.seed]) for time in one.arm if time.seed in others]
    return pairs if len(pairs) == len(one.arm) == len(one.reference) else []


def _resampled(one: Tuning, pairs: Sequence[tuple[Time, Time]], draw: np.random.Generator) -> tuple[list[Time], list[Time]]:
    if pairs:
        picked = draw.integers(len(pairs), size=len(pairs)).tolist()
        return [pairs[i][0] for i in picked], [pairs[i][1] for i in picked]
    arm, reference = one.arm, one.reference
    return (
        [arm[i] for i in draw.integers(len(arm), size=len(arm))],
        [reference[i] for i in draw.integers(len(reference), size=len(reference))],
    )
