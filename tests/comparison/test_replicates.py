"""Replicated tunings: independent searches, statistics with the tuning as their unit, and slow references for them."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from hf_radial.comparison.best_tuning import after_the_fit
from hf_radial.comparison.grid import read_grid, replicates_of, run_name
from hf_radial.comparison.jobs import TuningJob, TuningJobs
from hf_radial.comparison.outcome import RESULT_FILE, write_json
from hf_radial.comparison.replicated_page import over_settings, over_settings_table, replicated
from hf_radial.comparison.replicates import sign_flip_test, spread_of
from hf_radial.comparison.statistics import Time, Tuning, hierarchical, ratio_of_tunings, restricted_mean
from hf_radial.comparison.trials import best_trial, judged_cells, tuning_cells

GRID = {
    "title": "t",
    "base": {"epochs": 100},
    "axes": {"task": ["modular", "groups"]},
    "arms": {"AdamW": {}, "penalty": {"options": {"interventions": ["radial:strength=0.5"]}}},
    "seeds": [0, 1],
    "replicates": 3,
    "tuning": {"trials": 4, "seeds": [100], "finalists": 2, "finalist_seeds": [101, 102]},
}


def grid(tmp_path: Path, **changes):
    tuning = {**GRID["tuning"], "common": {"learning_rate": {"log": [1e-3, 0.1]}, "weight_decay": {"log": [0.01, 5]}}}
    file = tmp_path / "compare_r.yaml"
    file.write_text(yaml.safe_dump({**GRID, "tuning": tuning, **changes}))
    return read_grid(file)


def finish(grid_, root, onset):
    """Make up the outcome of every run that is asked for, until nothing is asked for any more."""
    made = []
    for one in replicates_of(grid_):
        for setting in one.settings:
            for arm in one.arms:
                while waiting := tuning_cells(one, setting, arm, root)[1]:
                    for cell in waiting:
                        cell.folder(root).mkdir(parents=True, exist_ok=True)
                        value = onset(cell)
                        status = "censored" if value is None else "solved"
                        result = {"status": status, "onset": value, "held_out": 0.5}
                        write_json(cell.folder(root) / RESULT_FILE, result)
                    made += waiting
    return made


def test_no_two_searches_share_a_draw_or_a_seed(tmp_path):
    """Draws by task, arm and replicate; a second search never repeats a draw of the first."""
    found = grid(tmp_path)
    made = finish(found, tmp_path / "runs", lambda cell: 50.0)
    searches: dict[tuple, set[str]] = {}
    for cell in made:
        searches.setdefault((cell.setting, cell.arm, cell.replicate), set()).add(json.dumps(cell.drawn))
    assert len(searches) == 2 * 2 * 3 and all(len(own) == 4 for own in searches.values())
    assert len(set.union(*searches.values())) == 4 * len(searches)
    judged = [cell for one in replicates_of(found) for cell in judged_cells(one, tmp_path / "runs")]
    assert len(judged) == 12 * 2
    seeds = {(cell.arm, cell.setting, cell.options["seed"]) for cell in judged}
    assert len(seeds) == len(judged) and not {cell.options["seed"] for cell in judged} & {c.options["seed"] for c in made}


def test_a_grid_without_replicates_has_the_draws_and_names_that_it_had(tmp_path):
    found = grid(tmp_path, replicates=0)
    assert replicates_of(found) == [found]
    cell = tuning_cells(found, found.settings[0], found.arms[0], tmp_path)[1][0]
    assert cell.folder(tmp_path).name == run_name(cell.options) and cell.options["seed"] == 100 and cell.replicate == 0


def test_the_finalist_with_the_smallest_mean_is_judged_and_not_the_one_with_the_best_median(tmp_path):
    """One of three runs that never gets there costs a configuration its place."""
    found = replicates_of(grid(tmp_path))[0]
    setting, arm = found.settings[0], found.arms[0]
    ranks: dict[float, int] = {}

    def onset(cell):
        rank = ranks.setdefault(cell.drawn["learning_rate"], len(ranks))
        if rank == 0:  # fast twice, and once never: mean 40, median 10
            return None if cell.options["seed"] == 102 else 10.0
        return 20.0 if rank == 1 else 90.0

    while waiting := tuning_cells(found, setting, arm, tmp_path)[1]:
        for cell in waiting:
            cell.folder(tmp_path).mkdir(parents=True, exist_ok=True)
            value = onset(cell)
            write_json(
                cell.folder(tmp_path) / RESULT_FILE,
                {"status": "solved" if value else "censored", "onset": value, "held_out": 0.5},
            )
    assert ranks[best_trial(found, setting, arm, tmp_path)["learning_rate"]] == 1


def test_replicates_advance_side_by_side(tmp_path):
    found = grid(tmp_path)
    jobs = tuple(TuningJob(one, found.settings[0], found.arms[0], tmp_path) for one in replicates_of(found))
    assert len(TuningJobs(jobs, 8).undone()) == 3  # the next trial of each


@pytest.mark.parametrize("changes", [{"replicates": 1}, {"replicates": 2, "tuning": None}, {"seeds": [0, 5000]}])
def test_replicates_that_cannot_be_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match="replicates"):
        grid(tmp_path, **changes)


def test_the_sign_flip_test_is_the_enumeration():
    draw = random.Random(0)
    for _ in range(20):
        values = [draw.gauss(0.3, 1) for _ in range(draw.randint(1, 8))]
        means = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in _all_signs(len(values))]
        expected = sum(mean >= abs(sum(values)) - 1e-9 for mean in means) / len(means)
        assert sign_flip_test(values) == pytest.approx(expected)
    many = [1.0 + 0.1 * i for i in range(20)]
    assert sign_flip_test(many) < 0.001


def _all_signs(count):
    return itertools.product((1, -1), repeat=count)


def test_the_restricted_mean_is_the_mean_where_all_are_watched_to_the_horizon():
    draw = random.Random(0)
    for _ in range(50):
        values = [draw.uniform(1, 150) for _ in range(draw.randint(1, 9))]
        times = [Time(i, min(value, 100), value >= 100) for i, value in enumerate(values)]
        assert restricted_mean(100)(times) == pytest.approx(sum(min(value, 100) for value in values) / len(values))


def test_the_restricted_mean_is_the_area_under_the_survival_curve():
    from hf_radial.comparison.statistics import survival

    draw = random.Random(1)
    for _ in range(50):
        times = [Time(i, float(draw.randint(1, 12)), draw.random() < 0.4) for i in range(draw.randint(2, 9))]
        x, share = survival(times)
        grid_ = np.arange(0, 10, 0.01) + 0.005
        area = sum(next((s for t, s in reversed(list(zip(x, share, strict=True))) if t <= at), 1.0) for at in grid_) * 0.01
        assert restricted_mean(10)(times) == pytest.approx(area, abs=0.02)


def test_spread_finds_what_tunings_and_seeds_cause():
    draw = np.random.default_rng(0)
    tunings = [np.exp(draw.normal(4 + 0.5 * draw.normal(), 0.2, size=5)) for _ in range(400)]
    found = spread_of([list(own) for own in tunings])
    assert math.log(found.tuning) == pytest.approx(0.5, rel=0.1) and math.log(found.seeds) == pytest.approx(0.2, rel=0.1)
    level = spread_of([list(np.exp(draw.normal(4, 0.2, size=5))) for _ in range(400)])
    assert math.log(level.tuning) < 0.08


def test_the_interval_covers_the_luck_of_tuning_and_one_over_seeds_alone_does_not():
    """Two equal arms whose tunings differ by luck: an interval over tunings has 1 in it about 19 times of 20."""
    draw = np.random.default_rng(0)
    inside = narrow = 0
    for i in range(60):
        tunings = []
        for _ in range(8):
            ours, theirs = (np.exp(draw.normal(4 + 0.5 * draw.normal(), 0.1, size=3)) for _ in range(2))
            tunings.append(Tuning("x", _times(ours), _times(theirs)))
        found = hierarchical(tunings, restricted_mean(1e9), tasks=False, seed=i)
        inside += found.low < 1 < found.high
        one = hierarchical(tunings[:1], restricted_mean(1e9), tasks=False, seed=i)  # as if there were one tuning
        narrow += one.low < 1 < one.high
    assert 50 <= inside <= 60 and narrow < 30


def _times(values):
    return tuple(Time(i, float(value), False) for i, value in enumerate(values))


def test_the_ratio_is_the_geometric_mean_within_and_over_tasks():
    tunings = [
        Tuning("x", _times([10]), _times([20])),
        Tuning("x", _times([10]), _times([80])),
        Tuning("y", _times([4]), _times([1])),
    ]
    assert ratio_of_tunings(tunings) == pytest.approx(math.sqrt(4 * 0.25))
    with pytest.raises(ValueError, match="tunings is empty"):
        hierarchical([])


def test_a_page_counts_runs_that_never_got_there_and_values_at_an_edge():
    rows = []
    for replicate in range(3):
        for arm, onsets in (("AdamW", (40.0, None)), ("penalty", (20.0, 20.0))):
            for seed, onset in enumerate(onsets):
                drawn = {"learning_rate": 0.1 if arm == "AdamW" else 0.01}
                status = "censored" if onset is None else "solved"
                row = {"setting": "x", "arm": arm, "stage": "judged", "replicate": replicate, "seed": seed, "drawn": drawn}
                rows.append({**row, "status": status, "onset": onset, "last": 100.0, "options": {"epochs": 100}})
    tuning = {"common": {"learning_rate": {"log": [1e-3, 0.1]}}, "own": {}}
    adamw, penalty = replicated({"rows": rows, "reference": "AdamW", "tuning": tuning})
    assert adamw["never"] == 3 and adamw["mean"] == 70 and dict(adamw["edges"]) == {"learning_rate high": 3}
    assert penalty["ratio"].value == pytest.approx(3.5) and (penalty["earlier"], penalty["later"]) == (3, 0)
    assert penalty["p_value"] == 0.25 and not penalty["edges"]


def test_over_settings_a_run_that_never_got_there_counts_with_the_end_of_its_setting():
    rows = []
    for setting, end, onsets in (("x", 100, {"AdamW": 40, "penalty": 20}), ("y", 50, {"AdamW": None, "penalty": 25})):
        for arm, onset in onsets.items():
            for replicate in range(3):
                for seed in range(2):
                    row = {"setting": setting, "arm": arm, "stage": "judged", "replicate": replicate, "seed": seed, "last": end}
                    rows.append({**row, "status": "censored" if onset is None else "solved", "onset": onset})
    adamw, penalty = over_settings(rows, ["AdamW"])
    assert (adamw["never"], adamw["runs"], adamw["against"]) == (6, 12, {})
    found = penalty["against"]["AdamW"]
    assert found["ratio"].value == pytest.approx(2) == found["ratio"].low  # 40 / 20 and 50 / 25: no spread
    assert (found["above"], found["below"], found["settings"]) == (2, 0, 2)
    lines = over_settings_table([adamw, penalty], ["AdamW"], {"penalty": "ours"}).splitlines()
    assert lines[2:] == ["| AdamW | 50% of 12 | – | – |", "| ours | 0% of 12 | 2 (2 to 2) | 2 / 0 of 2 |"]


def test_what_follows_the_fit_is_counted_in_evaluations():
    def row(fit, onset):
        same = {"stage": "judged", "arm": "a", "options": {"evaluate_every": 3}}
        return {**same, "fit": fit, "onset": onset, "status": "censored" if onset is None else "solved"}

    rows = [row(30, 30), row(30, 33), row(30, 36), row(30, None), row(None, 33), row(None, None)]
    assert after_the_fit(rows) == {"a": (4, 1, 1)}
