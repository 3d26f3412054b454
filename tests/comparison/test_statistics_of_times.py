"""Medians and ratios of right-censored times against references written out here, and on cases with a known answer."""

import math
import random

import numpy as np
import pytest

from hf_radial.comparison.statistics import Time, _fast_median, _medians, median_time, speedup

pytestmark = pytest.mark.quick


def test_the_two_medians_agree_on_random_samples_with_censoring_and_ties():
    draw = random.Random(0)
    for _ in range(200):
        times = [Time(i, float(draw.randint(1, 8)), draw.random() < 0.4) for i in range(draw.randint(1, 9))]
        assert median_time(times) == _fast_median(times)


def test_the_medians_of_many_samples_at_once_are_those_of_each():
    draw = np.random.default_rng(0)
    for count in range(1, 10):
        times = [Time(i, float(draw.integers(1, 8)), bool(draw.random() < 0.4)) for i in range(count)]
        picked = draw.integers(count, size=(50, count))
        each = [_fast_median([times[i] for i in sample]) for sample in picked]
        assert _medians(times, picked).tolist() == [math.inf if median is None else median for median in each]


def test_a_censored_run_is_not_left_out():
    reached = [Time(0, 10, False), Time(1, 20, False)]
    assert median_time(reached) == 10
    assert median_time([*reached, Time(2, 50, True), Time(3, 50, True)]) == 20
    assert median_time([*reached, *(Time(i, 50, True) for i in (2, 3, 4))]) is None


def test_a_median_that_only_one_arm_has_is_an_infinite_or_a_zero_speedup():
    solved, never = [Time(i, 10, False) for i in range(3)], [Time(i, 99, True) for i in range(3)]
    assert speedup(solved, never).ratio == math.inf
    assert speedup(never, solved).ratio == 0
    assert speedup(never, never).ratio is None
    assert speedup(solved, never).earlier == 3 and speedup(never, never).pairs == 3 and speedup(never, never).p_value is None


def test_a_sample_in_which_neither_arm_has_a_median_leaves_both_ends_open():
    both, neither = [Time(0, 10, False)], [Time(1, 99, True)]
    found = speedup([*both, *neither], [Time(0, 12, False), *neither])
    assert (found.ratio, found.low, found.high) == (1.2, 0, math.inf)  # seed 1, drawn twice, has no ratio
    seeds = range(7)
    ours, theirs = ([Time(i, value, False) for i in seeds] + [Time(7, 99, True)] for value in (10, 12))
    found = speedup(ours, theirs)  # five draws of eight of the one seed are rarer than 2.5 %
    assert (found.low, found.high) == (1.2, 1.2)


def test_a_run_that_was_ended_before_the_other_got_there_decides_nothing():
    early_end, late = [Time(0, 50, True)], [Time(0, 80, False)]
    found = speedup(early_end, late)
    assert (found.earlier, found.later) == (0, 0)


def test_the_interval_of_equal_arms_has_one_in_it():
    draw = random.Random(1)
    a = [Time(i, draw.gauss(100, 10), False) for i in range(20)]
    b = [Time(i, draw.gauss(100, 10), False) for i in range(20)]
    found = speedup(a, b)
    assert found.low < 1 < found.high
    assert found.ratio == pytest.approx(median_time(b) / median_time(a))
