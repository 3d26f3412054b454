"""The first sentences of the page: their numbers are those of the run's files, and what is not known is not said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_runs import fake_run

from hf_radial.report.answer import answer, headline, value_at
from hf_radial.runs.files import Series, read_run
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, summarise

SITES = ["h.0.mlp", "h.1.mlp"]


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(3))
def test_a_sentence_has_the_fit_the_onset_and_the_radius_then(seed, tmp_path):
    log = fake_run(tmp_path / "run", seed=seed, sites=SITES, groups=("radial",))
    run = read_run(tmp_path / "run")
    told, summary = answer(run), summarise(log)
    assert (told.fit, told.onset) == (summary["fit_step"], summary["onset_90"])
    assert f"fitted its training rows at step {told.fit:,} and generalised from step {told.onset:,} on" in told.text
    assert f"{told.onset - told.fit:,} steps later" in told.text and "(target 11.3)" in told.text
    for site in SITES:
        series = run.series("radius_q50", site)
        at = [series.values[np.abs(series.steps - step).argmin()] for step in (told.fit, told.onset)]
        assert f"{site.rpartition('.')[0]} {at[0]:#.3g} → {at[1]:#.3g}" in told.text
        assert told.radius[site] == at[1]


def test_a_run_that_did_not_generalise_says_how_far_it_came(tmp_path):
    fake_run(tmp_path / "run", steps=3_000, onset=60_000, sites=SITES, groups=("radial",))
    told = answer(read_run(tmp_path / "run"))
    assert told.onset is None and told.fit is not None
    assert "had not generalised by step 3,000 (held-out accuracy 1.0" in told.text and "from the fit to the end" in told.text
    fake_run(tmp_path / "short", steps=150, sites=SITES, groups=())
    told = answer(read_run(tmp_path / "short"))
    assert told.fit is None and "neither fitted its training rows nor generalised by step 150" in told.text


@pytest.mark.parametrize(
    "log, says",
    [
        ([], "Its log has no accuracy"),
        ([{"step": 5, TRAIN_METRIC: 1.0}], "at step 5; its log has no held-out accuracy"),
        ([{"step": 5, TRAIN_METRIC: 0.1}], "not fitted its training rows by step 5; its log has no held-out accuracy"),
        ([{"step": 5, HELD_OUT_METRIC: 0.95}], "It generalised from step 5 on."),
        ([{"step": 5, HELD_OUT_METRIC: 0.1}], "It had not generalised by step 5"),
        ([{"step": 5, HELD_OUT_METRIC: 0.95, TRAIN_METRIC: 0.3}], "had not fitted its training rows by step 5"),
        ([{"step": 5, HELD_OUT_METRIC: 0.95, TRAIN_METRIC: 1.0}], "from step 5 on, without delay"),
        ([{"step": 5, "loss": 1.0}, {"step": 6, "loss": float("nan")}], "Its loss is not a finite number at step 6."),
    ],
)
def test_what_a_log_does_not_tell_is_not_said(log, says, tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    told = answer(read_run(tmp_path)).text
    assert says in told and "No radius was measured." in told


def test_a_radius_that_was_measured_far_from_the_moment_says_when():
    series = Series(np.array([0.0, 100.0, 200.0]), np.array([1.0, np.nan, 3.0]), np.empty(3))
    assert value_at(series, 90) == (0.0, 1.0) and value_at(series, 150) == (200.0, 3.0)
    assert value_at(Series(*(np.array([np.nan]),) * 3), 5) is None


def test_of_many_sites_a_sentence_names_the_last_and_never_a_mean(tmp_path):
    fake_run(tmp_path / "run", sites=[f"h.{i}.mlp" for i in range(12)], groups=("radial",))
    told = answer(read_run(tmp_path / "run"))
    assert "h.11" in told.text and "the last of 12 sites" in told.text and list(told.radius) == ["h.11.mlp"]


def test_the_circuit_is_periodic_only_from_where_it_stays_so(tmp_path):
    fake_run(tmp_path / "run", sites=SITES, groups=("fourier",))
    run = read_run(tmp_path / "run")
    rows = run.measured["fourier_r2"]["logits"]
    rows[:, 2] = 0.5
    rows[3, 2] = rows[-4:, 2] = 0.95
    assert f"(Fourier R² at least 0.9) from step {rows[-4, 0]:,.0f} on" in answer(run).text
    rows[-1, 2] = 0.5
    assert "Fourier" not in answer(run).text


def test_the_headline_counts_the_runs_and_names_the_first_and_the_last(tmp_path):
    answers = []
    for number, onset in enumerate((3_000, 9_000, 90_000)):
        fake_run(tmp_path / str(number), onset=onset, groups=())
        answers.append(answer(read_run(tmp_path / str(number))))
    said = headline(["a", "b", "c"], answers)
    assert said == (
        f"Held-out accuracy rose to 90 % in 2 of 3 runs: first a, at step {answers[0].onset:,}; last b, at step "
        f"{answers[1].onset:,}."
    )
    assert headline(["a"], answers[:1]) == "" and "none of 2 runs" in headline(["c", "d"], [answers[2]] * 2)
