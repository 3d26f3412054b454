"""Fit, onset and delay against logs whose answer is plain to see."""

from __future__ import annotations

import pytest

from hf_radial.grokking import first_of_run, fit_step, onset_step, summarise


def log(train, held_out):
    """One evaluation every 10 steps; `Trainer` logs the two splits apart, and other things in between."""
    history = []
    for i, (a, b) in enumerate(zip(train, held_out, strict=True), 1):
        history += [{"step": 10 * i, "loss": 1.0}, {"step": 10 * i, "eval_train_exact_match": a}]
        history.append({"step": 10 * i, "eval_validation_exact_match": b})
    return history


def test_a_run_that_memorises_first():
    summary = summarise(log([0.5, 1.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.3, 0.95, 0.99]))
    assert summary == {
        "fit_step": 20,
        "held_out_at_fit": 0.1,
        "memorised_first": True,
        "onset_90": 40,
        "onset_99": 50,
        "delay_99": 30,
        "last_step": 50,
        "last_held_out": 0.99,
    }


def test_a_run_that_is_cut_off_is_censored_not_finished():
    summary = summarise(log([0.5, 1.0, 1.0], [0.0, 0.1, 0.3]))
    assert summary["onset_90"] is None and summary["delay_99"] is None and summary["last_step"] == 30
    assert summarise(log([0.5], [0.0]))["memorised_first"] is None
    assert summarise([])["last_step"] is None


def test_an_onset_that_does_not_last_does_not_count():
    history = log([1.0] * 5, [0.95, 0.96, 0.4, 0.91, 0.92])
    assert onset_step(history) == 40
    assert onset_step(log([1.0] * 2, [0.95, 0.4])) is None


@pytest.mark.parametrize(("length", "expected"), [(1, 10), (2, 10), (3, 40), (4, None)])
def test_the_first_of_several_in_a_row(length, expected):
    history = log([1.0] * 6, [0.95, 0.96, 0.4, 0.91, 0.92, 0.93])
    assert first_of_run(history, "eval_validation_exact_match", 0.9, length) == expected


def test_the_fit_is_the_first_evaluation_at_99_percent():
    assert fit_step(log([0.98, 0.99, 0.5], [0.0, 0.0, 0.0])) == 20
