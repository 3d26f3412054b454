"""Tables of comparisons: counts, bounds, and pooling over settings, on cases with a known answer."""

import math

import pytest

from hf_radial.comparison.pooled import over_all, pooled
from hf_radial.comparison.table import markdown, summary

pytestmark = pytest.mark.quick


def run(setting, arm, seed, onset, fit=10.0, last=300.0):
    status = "censored" if onset is None else "solved"
    steps = None if onset is None else onset * 7
    row = {"setting": setting, "arm": arm, "stage": "judged", "seed": seed, "status": status, "fit": fit, "onset": onset}
    return {**row, "last": last, "onset_steps": steps, "last_steps": last * 7, "seconds": steps, "last_seconds": last * 7}


def arm(setting, name, onsets):
    return [run(setting, name, seed, onset) for seed, onset in enumerate(onsets)]


def test_a_run_that_never_fitted_or_failed_is_not_left_out():
    rows = [run("", "a", 0, 40, fit=10.0), run("", "a", 1, None, fit=None), run("", "a", 2, None, fit=None)]
    (entry,) = summary(rows, "a")
    assert entry["fit"] is None and entry["onset"] is None and entry["last"] == 300
    rows += [{"setting": "", "arm": "a", "stage": "judged", "seed": 3, "status": "failed", "last": 300}]
    (entry,) = summary(rows, "a")
    assert (entry["runs"], entry["solved"], entry["censored"], entry["failed"]) == (4, 1, 2, 1)
    assert "| 1 of 4, 1 FAILED |" in markdown([entry])


def test_a_failed_run_is_one_that_never_got_there():
    failed = {"setting": "", "arm": "a", "stage": "judged", "seed": 2, "status": "failed", "last": 300}
    (entry,) = summary([*arm("", "a", [40, 50]), failed], "a")
    assert (entry["onset"], entry["solved"], entry["failed"]) == (50, 2, 1)  # without it, 40
    (entry,) = summary([*arm("", "a", [40, 50]), *({**failed, "seed": seed} for seed in (2, 3, 4))], "a")
    assert entry["onset"] is None and entry["last"] == 300
    _, entry = summary([*arm("", "b", [30, 30]), failed], "b")  # an arm all of whose runs failed
    assert entry["onset"] is None and entry["speedup"]["ratio"] == 0 and entry["speedup"]["bound"] == 0.1
    assert "| 0 of 1, 1 FAILED | – | > 300 | – | – | – | < 0.1 |" in markdown([entry])


def test_seconds_of_runs_that_shared_their_steps_are_not_told():
    rows = [{**row, "seconds": None, "last_seconds": None, "together": 2} for row in arm("", "a", [40, 50, 60])]
    assert summary(rows, "a")[0]["seconds"] is None and summary([*rows, run("", "a", 3, 40)], "a")[0]["seconds"] is None


def test_onsets_are_told_in_epochs_and_in_steps():
    (entry,) = summary(arm("", "a", [40, 50, 60]), "a")
    assert (entry["onset"], entry["steps"]) == (50, 350)
    assert "| 50 | 350 |" in markdown([entry])


def test_settings_are_pooled_by_pairs_and_by_the_geometric_mean():
    rows = arm("x", "a", [40] * 5) + arm("x", "b", [20] * 5) + arm("y", "a", [40] * 5) + arm("y", "b", [80] * 5)
    (found,) = pooled(summary(rows, "a"))
    assert found["ratio"] == pytest.approx(1.0) and (found["earlier"], found["later"], found["bound"]) == (5, 5, "")
    assert found["p_value"] == found["q_value"] == 1


def test_a_median_beyond_the_end_is_a_bound_of_the_pooled_ratio():
    rows = arm("x", "a", [30] * 3) + arm("x", "never", [None] * 3) + arm("x", "same", [30] * 3)
    rows += arm("y", "a", [75] * 3) + arm("y", "never", [None] * 3) + arm("y", "same", [75] * 3)
    found = {one["arm"]: one for one in pooled(summary(rows, "a"))}
    assert found["never"]["bound"] == "<" and found["never"]["ratio"] == pytest.approx(math.sqrt(0.1 * 0.25))
    assert found["never"]["q_value"] == pytest.approx(2 * found["never"]["p_value"]) == pytest.approx(0.0625)
    said = over_all(summary(rows, "a"), rows, "a")
    assert "| never | < 0.158 | 0.1 to 0.25 | – | 0 | 6 |" in said and "| same | 1 | 1 to 1 | 1 | 0 | 0 |" in said


def test_where_one_setting_is_a_bound_from_below_and_one_from_above_nothing_is_said():
    rows = arm("x", "a", [30] * 3) + arm("x", "b", [None] * 3) + arm("y", "a", [None] * 3) + arm("y", "b", [30] * 3)
    assert "| b | – | – | – | 3 | 3 |" in over_all(summary(rows, "a"), rows, "a")
