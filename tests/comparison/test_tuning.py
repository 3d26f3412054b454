"""The draws of a tuning: in range, reproducible, concentrated on good values, and equally many for every arm."""

import pytest

from hf_radial.comparison.tuning import score, search

RANGES = {"lr": {"log": [1e-4, 1e-1]}, "p": {"choices": ["a", "b"]}, "m": {"linear": [0.0, 0.9]}}


def drawn(goodness, trials=16, ranges=RANGES, **options):
    asked = search(ranges, trials, **options)
    out = [next(asked)]
    with pytest.raises(StopIteration):
        while True:
            out.append(asked.send(goodness(out[-1])))
    return out


def test_draws_stay_in_their_ranges_and_spread():
    tried = drawn(lambda draw: 0.0)
    assert len(tried) == 16
    rates = sorted(draw["lr"] for draw in tried)
    assert 1e-4 <= rates[0] < 1e-3 and 1e-2 < rates[-1] <= 1e-1
    assert {draw["p"] for draw in tried} == {"a", "b"} and all(0 <= draw["m"] <= 0.9 for draw in tried)


def test_the_same_outcomes_lead_to_the_same_draws_and_others_to_others():
    assert drawn(lambda draw: draw["lr"]) == drawn(lambda draw: draw["lr"])
    assert drawn(lambda draw: draw["lr"]) != drawn(lambda draw: -draw["lr"])
    assert drawn(lambda draw: draw["lr"]) != drawn(lambda draw: draw["lr"], seed=1)


def test_later_draws_are_nearer_to_what_was_good():
    tried = [draw["lr"] for draw in drawn(lambda draw: draw["lr"], trials=40)]
    assert sorted(tried[20:])[10] < sorted(tried[:10])[5] / 3


def test_the_first_trials_are_where_they_are_told_to_be():
    asked = search(RANGES, 4, [{"lr": 0.02}, {"lr": 0.02}])
    tried = [next(asked), asked.send(1.0), asked.send(1.0)]
    assert [draw["lr"] for draw in tried[:2]] == [0.02, 0.02] and tried[0]["m"] != tried[1]["m"] and tried[2]["lr"] != 0.02


def test_an_arm_with_nothing_to_tune_has_as_many_trials():
    assert drawn(lambda draw: 0.0, 3, {}) == [{}, {}, {}]


def test_runs_that_got_there_are_better_than_those_that_did_not_and_those_than_failures():
    scores = [score({"status": "solved", "onset": onset}, 300) for onset in (40.0, 299.0)]
    scores += [score({"status": "censored", "held_out": value}, 300) for value in (0.99, 0.0)]
    scores.append(score({"status": "failed"}, 300))
    assert scores == sorted(scores) and len(set(scores)) == 5
