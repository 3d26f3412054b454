"""A study from its file to its page: equal tuning, seeds of their own for each stage, resuming, answers by the rules."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from hf_radial.continual.page import matrices_in, write_page
from hf_radial.continual.study import best_trial, draws, identity, jobs_of, longest, read_study, score
from hf_radial.continual.verdict import Difference, better, difference, direction
from hf_radial.runs.record import describe_environment

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "recipes" / "configs" / "sequence.yaml"


def small(folder, **changes):
    data = yaml.safe_load(STUDY.read_text())
    data |= {"base": {**data["base"], "tasks": 3, "epochs": 1, "batch_size": 100, "hidden_size": 8}, "tuning_tasks": 2}
    data |= {
        "least_current": 0.0,
        "replicates": 2,
        "trials": 3,
        "judged_seeds": 2,
        "long": {"tasks": 4, "seeds": 1, "arms": 1},
    } | changes
    kept = ("AdamW", "L2 to initial weights", "penalty, paper's radius", "penalty, initial radius")
    data["arms"] = {name: data["arms"][name] for name in kept}
    data["published"] |= {"tasks": 2, "seeds": 2, "learning_rates": [1e-3]}
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def recipe(folder, monkeypatch, *args):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import task_sequence

    monkeypatch.setattr(sys, "argv", ["task_sequence.py", "--results", str(folder), *args])
    task_sequence.main()
    return task_sequence.rows_in(folder)


def test_every_arm_has_the_same_budget_and_no_two_runs_share_a_seed_by_accident():
    study = read_study(STUDY)
    assert study.replicates >= 5
    seeds = {}
    for arm in study.arms:
        for replicate in range(study.replicates):
            drawn = draws(arm, replicate, study.trials)
            assert len(drawn) == study.trials and "learning_rate" in drawn[0]
            for name, choice in arm.tune.items():
                low, high = map(math.log, choice["log"])
                parts = [int((math.log(one[name]) - low) / (high - low) * study.trials - 1e-6) for one in drawn]
                assert sorted(parts) == list(range(study.trials))  # one draw in each part of the range
    assert len({json.dumps(draws(arm, replicate, 2)[0]) for arm in study.arms for replicate in range(5)}) == 5 * len(study.arms)
    for stage in ("tuning", "published"):
        for job in jobs_of(study, stage, [], range(study.replicates)):
            seeds.setdefault(stage, set()).update(key["seed"] for key in job.keys)
    assert not seeds["tuning"] & seeds["published"] and len(seeds["tuning"]) == study.replicates


@pytest.mark.quick
def test_the_best_trial_has_the_most_retention_among_those_that_learn_well_enough():
    study = read_study(STUDY)
    rows = [
        {"stage": "tuning", "arm": "AdamW", "replicate": 0, "retention": r, "current": c, "failed": f, "drawn": {"i": i}}
        for i, (r, c, f) in enumerate([(0.9, 0.5, False), (0.2, 0.95, False), (0.3, 0.91, False), (1.0, 0.99, True)])
    ]
    assert best_trial(study, rows, "AdamW", 0) is None  # trials are missing
    rows += [{**rows[0], "retention": 0.1, "drawn": {"i": 9}}] * (study.trials - 4)
    assert best_trial(study, rows, "AdamW", 0) == {"i": 2}
    assert score({"retention": 0.5, "current": 0.8, "failed": False}, 0.9) > score(rows[3], 0.9)


def test_a_small_study_runs_resumes_and_makes_its_page(tmp_path, monkeypatch):
    file, folder = small(tmp_path), tmp_path / "found"
    recipe(folder, monkeypatch, "--study", str(file), "--stages", "published", "tuning")
    before = (folder / "rows.jsonl").read_text()
    rows = recipe(folder, monkeypatch, "--study", str(file))
    assert (folder / "rows.jsonl").read_text().startswith(before)
    names = [identity(row) for row in rows]
    assert len(set(names)) == len(names)
    stages = [row["stage"] for row in rows]
    assert {stage: stages.count(stage) for stage in set(stages)} == {"published": 6, "tuning": 24, "judged": 16, "long": 4}
    study = read_study(file)
    assert set(longest(study, rows)) == {row["arm"] for row in rows if row["stage"] == "long"}
    for row in rows:
        if row["stage"] == "judged":
            assert row["drawn"] == best_trial(study, rows, row["arm"], row["replicate"])
            assert row["split"] == "test" and row["seed"] not in {r["seed"] for r in rows if r["stage"] == "tuning"}

    # The numbers of a row are those of its matrix.
    for line in (folder / "matrices.jsonl").read_text().splitlines():
        data = json.loads(line)
        row = rows[names.index(data["run"])]
        last = data["accuracy"][-1]
        assert row["retention"] == pytest.approx(np.mean(last[:-1]), abs=1e-3)
        assert row["current"] == pytest.approx(np.mean([own[-1] for own in data["accuracy"]]), abs=1e-3)

    before = matrices_in(folder)
    write_page(study, rows, folder)
    (folder / "matrices.jsonl").unlink()
    after = matrices_in(folder)
    assert before.keys() == after.keys() and all(np.array_equal(before[run], after[run], equal_nan=True) for run in before)
    text = folder.with_suffix(".md").read_text()
    assert all(arm.name in text for arm in study.arms) and "undecided" in text + " yes no undecided"
    tidy = pq.read_table(folder.with_suffix(".parquet")).to_pylist()
    row = next(row for row in rows if row["stage"] == "judged")
    kept = [
        one["value"]
        for one in tidy
        if (one["stage"], one["arm"], one["replicate"], one["seed"], one["metric"])
        == ("judged", row["arm"], row["replicate"], row["seed"], "kept")
    ]
    assert kept == row["kept_of_task"]
    for figure in ("judged_retention", "judged_current", "judged_dead", "judged_task_by_time", "long_retention"):
        assert (folder / f"{figure}.png").stat().st_size > 1000


def test_runs_do_not_depend_on_who_is_trained_with_them(tmp_path, monkeypatch):
    file = small(tmp_path)
    args = ("--study", str(file), "--stages", "tuning", "--arms", "AdamW")
    both = recipe(tmp_path / "both", monkeypatch, *args)
    alone = recipe(tmp_path / "alone", monkeypatch, *args, "--replicates", "1")
    assert len({identity(row) for row in both}) == len(both) == 6
    added = recipe(tmp_path / "alone", monkeypatch, *args)  # only the other replicate is left to do
    assert [row["replicate"] for row in added] == [1] * 3 + [0] * 3
    by_name = {identity(row): row for row in both}
    for row in alone:
        other = by_name[identity(row)]
        assert row["retention"] == pytest.approx(other["retention"], abs=0.01)
        assert row["online"] == pytest.approx(other["online"], abs=0.01)


@pytest.mark.quick
def test_a_difference_is_that_of_pairs_with_replicates_as_the_unit():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(6, 4))  # luck of a seed, on both arms
    ours, theirs = shared + 0.1 + 0.01 * rng.normal(size=(6, 4)), shared
    found = difference(ours.tolist(), theirs.tolist())
    assert found.value == pytest.approx((ours - theirs).mean()) and 0.08 < found.low < 0.1 < found.high < 0.12
    assert found.p_value == pytest.approx(2 / 2**6)
    # With one replicate far off, the interval is wide however many seeds there are.
    off = theirs + np.array([1.0, 0, 0, 0, 0, 0])[:, None]
    wide = difference(off.tolist(), theirs.tolist())
    assert wide.low == 0 and wide.high > 0.3
    with pytest.raises(ValueError, match="must be the same"):
        difference([[1.0, 2.0]], [[1.0]])


def of(value, low, high):
    return Difference(value, low, high, 0.1, 5)


@pytest.mark.quick
def test_answers_follow_the_stated_rules():
    same, worse = of(0.0, -0.01, 0.01), of(-0.05, -0.06, -0.04)
    assert better(of(0.05, 0.01, 0.09), same) == "yes"
    assert better(of(0.05, 0.01, 0.09), worse) == "undecided"  # not at equal current accuracy
    assert better(of(0.0, -0.005, 0.005), same) == "no" and better(of(0.02, -0.01, 0.05), same) == "undecided"
    gain, none = (of(0.1, 0.05, 0.15), same), (of(0.0, -0.05, 0.05), same)
    assert [direction(pair) for pair in ([gain, gain], [gain, none], [none, none])] == ["yes", "undecided", "no"]
    assert direction([gain, (gain[0], worse)]) == "undecided"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": None, "more": 1}, "must hold a mapping with the keys"),
        ({"common": {"learning_rat": {"log": [1e-3, 1e-2]}}}, "'learning_rat' is no option"),
        ({"common": {"learning_rate": {"choices": [1e-3]}}}, "must be {log"),
    ],
)
def test_a_faulty_file_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(small(tmp_path, **changes))


def test_the_environment_of_the_runs_is_noted():
    assert "machine" in describe_environment()
