"""The committed study of a sequence: its answers follow from its rows, and the pages say what the rows say."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from hf_radial.continual.page import arms_of, derived, matrices_in, page, verdicts
from hf_radial.continual.sequence import train_sequence
from hf_radial.continual.stack import Options
from hf_radial.continual.study import best_trial, identity, read_study
from hf_radial.continual.verdict import compare
from hf_radial.tasks.image_sequence import ImageSequenceConfig

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "recipes" / "results"
STUDY = read_study(ROOT / "recipes" / "configs" / "sequence.yaml")
ROWS = [json.loads(line) for line in (RESULTS / "sequence" / "rows.jsonl").read_text().splitlines()]
JUDGED = [row for row in ROWS if row["stage"] == "judged"]


def test_the_answers_follow_from_the_rows_by_the_stated_rules():
    data = json.loads((RESULTS / "sequence.json").read_text())
    assert data["verdicts"] == json.loads(json.dumps(verdicts(ROWS, STUDY)))
    for one in data["verdicts"]:
        if " against " not in one["what"]:
            continue
        ours, theirs = one["what"].split(" against ")
        values = {}
        for row in JUDGED:  # by hand: pairs of one seed, mean within a replicate, mean over replicates
            if row["arm"] in (ours, theirs):
                values.setdefault(row["replicate"], {}).setdefault(row["seed"], {})[row["arm"]] = row["retention"]
        means = [statistics.fmean(pair[ours] - pair[theirs] for pair in seeds.values()) for seeds in values.values()]
        assert one["retention"]["value"] == pytest.approx(statistics.fmean(means)) and len(means) == STUDY.replicates
        low, high = one["retention"]["low"], one["retention"]["high"]
        answer = "yes" if low > 0 and one["current"]["value"] >= -0.01 else "no" if high < 0.01 else "undecided"
        assert one["answer"] == answer


def test_the_page_is_made_from_the_rows():
    environment = json.loads((RESULTS / "sequence" / "environment.json").read_text())
    assert (RESULTS / "sequence.md").read_text() == page(STUDY, ROWS, environment).replace("](", "](sequence/")


def test_every_judged_arm_was_tuned_as_often_and_judged_at_its_best_trial():
    assert len({identity(row) for row in ROWS}) == len(ROWS)
    for arm in ("AdamW", "L2 to initial weights", "penalty, paper's radius", "penalty, initial radius"):
        assert {row["replicate"] for row in JUDGED if row["arm"] == arm} == set(range(STUDY.replicates))
    for arm in arms_of(ROWS, "judged"):
        replicates = {row["replicate"] for row in JUDGED if row["arm"] == arm}
        assert len(replicates) >= 3
        for replicate in replicates:
            drawn = best_trial(STUDY, ROWS, arm, replicate)
            own = [row for row in JUDGED if (row["arm"], row["replicate"]) == (arm, replicate)]
            assert len(own) == STUDY.judged_seeds and all(row["drawn"] == drawn for row in own)


def test_retention_and_current_accuracy_of_each_row_are_those_of_its_matrix():
    matrices = matrices_in(RESULTS / "sequence")
    full = [row for row in ROWS if row["stage"] != "tuning"]
    assert len(full) == len(matrices)
    for row in full:
        a = matrices[identity(row)]
        assert row["retention"] == pytest.approx(a[-1, :-1].mean(), abs=1e-3)
        assert row["current"] == pytest.approx(np.diag(a).mean(), abs=1e-3)
        assert derived(row)["late"] == pytest.approx(np.diag(a)[-10:].mean(), abs=1e-3)


@pytest.mark.slow
def test_a_run_that_is_made_again_says_the_same():
    row = next(row for row in JUDGED if row["arm"] == "penalty, initial radius")
    base = STUDY.base
    again = train_sequence(
        ImageSequenceConfig(tasks=base["tasks"]),
        [(row["seed"], Options(**row["options"]))],
        epochs=base["epochs"],
        batch_size=base["batch_size"],
        hidden_size=base["hidden_size"],
        split="test",
        full=False,
    )[0].accuracy
    # Rounding differs from machine to machine, and training makes much of it.
    assert np.diag(again).mean() == pytest.approx(row["current"], abs=0.02)
    assert again[-1, :-1].mean() == pytest.approx(row["retention"], abs=0.03)


def mean(arm, name):
    """Over replicates and seeds of a judged arm."""
    return statistics.fmean(derived(row)[name] if name in derived(row) else row[name] for row in JUDGED if row["arm"] == arm)


PENALTIES = ("penalty, paper's radius", "penalty, initial radius")
FREE = ("AdamW", "L2 to initial weights")  # without any hold on the lengths


def test_what_the_page_says_of_the_penalties():
    """docs/evidence/sequence.md, "In short", and the README."""
    for ours in PENALTIES:
        for theirs in FREE:
            assert compare(ROWS, "judged", ours, theirs, "retention").low > 0  # both keep more
            assert compare(ROWS, "judged", ours, theirs, "current").low > 0  # and learn better
        assert mean(ours, "dead_last") < 0.05  # almost no unit dies
        assert abs(mean(ours, "late") - mean(ours, "early")) < 0.01  # the last tasks are learned as well as the first
    for theirs in FREE:
        assert mean(theirs, "dead_last") > 0.4  # nearly half
        assert mean(theirs, "early") - mean(theirs, "late") > 0.02  # they lose plasticity
    found = {one["question"]: one["answer"] for one in verdicts(ROWS, STUDY)}
    assert found["initial"] == "no" and found["direction"] == "no"
    assert [one["answer"] for one in verdicts(ROWS, STUDY) if one["question"] == "against_l2_init"] == ["yes", "yes"]
    # The caveat: five tunings cannot be below 0.0625 in the exact test, and one of the two is not near.
    p_values = [one["retention"]["p_value"] for one in verdicts(ROWS, STUDY) if one["question"] == "against_l2_init"]
    assert max(p_values) > 0.1 and min(p_values) == 0.0625


def test_what_the_page_says_of_layer_norm():
    retention = [compare(ROWS, "judged", ours, "LayerNorm", "retention") for ours in PENALTIES]
    assert all(found.low < 0 < found.high for found in retention)  # it keeps as much
    assert all(compare(ROWS, "judged", ours, "LayerNorm", "current").low > 0 for ours in PENALTIES)  # and learns less well
    assert mean("LayerNorm", "early") - mean("LayerNorm", "late") > 0.02


def test_what_the_page_says_of_the_other_methods():
    against = {arm: compare(ROWS, "judged", arm, "AdamW", "retention") for arm in arms_of(ROWS, "judged") if arm != "AdamW"}
    assert against["projection"].low < 0 < against["projection"].high
    first, _, projected = STUDY.published["arms"]
    for rate in STUDY.published["learning_rates"]:
        found = compare(ROWS, "published", projected, first, "retention", learning_rate=rate)
        assert found.low < 0 < found.high
    for arm in ("ReDo", "spectral regularisation"):
        assert mean(arm, "late") > mean(arm, "early") - 0.01 and against[arm].low < 0
    trials = [row for row in ROWS if row["stage"] == "tuning" and row["arm"] == "EWC"]
    assert trials and all(row["current"] < STUDY.least_current for row in trials)
    assert mean("EWC", "current") < mean("AdamW", "current") - 0.05 and against["EWC"].low > 0
    enough = [arm for arm in against if arm != "replay" and mean(arm, "current") >= STUDY.least_current]
    assert mean("replay", "retention") > 2 * max(mean(arm, "retention") for arm in enough)


def test_how_sure_the_page_says_that_it_is():
    found = [one["retention"] for one in verdicts(ROWS, STUDY) if one["question"] == "against_l2_init"]
    assert {round(one["p_value"], 4) for one in found} == {0.0625, 0.1875} and all(one["replicates"] == 5 for one in found)
    kept = [mean(arm, "retention") for arm in (*PENALTIES, *FREE, "LayerNorm")]
    assert min(kept) > 0.1 and max(kept) < 0.1749
    learned = [compare(ROWS, "judged", ours, theirs, "current").value for ours in PENALTIES for theirs in FREE]
    gained = [compare(ROWS, "judged", ours, theirs, "retention").value for ours in PENALTIES for theirs in FREE]
    assert min(x - y for x, y in zip(learned, gained, strict=True)) > 0


def test_the_published_strength_changes_little():
    for rate in STUDY.published["learning_rates"]:
        names = list(STUDY.published["arms"])
        assert abs(compare(ROWS, "published", names[1], names[0], "retention", learning_rate=rate).value) < 0.01


def test_tuned_strengths_are_far_above_the_published_one():
    for ours in PENALTIES:
        strengths = {row["drawn"]["radial_lambda"] for row in JUDGED if row["arm"] == ours}
        assert min(strengths) > 10 * 3e-3
