"""Fit, onset and delay on logs with a known answer, and against a slow reference on random logs."""

from __future__ import annotations

import json
import math
import random

import pytest

from hf_radial.runs.onset import check_metrics, curve, first_streak, fit_step, onset_step, summarise

pytestmark = pytest.mark.quick

TRAIN, HELD_OUT = "eval_train_exact_match", "eval_validation_exact_match"


def log(train, held_out, names=(TRAIN, HELD_OUT)):
    """One evaluation every 10 steps; `Trainer` logs the two splits apart, and other things in between."""
    history = []
    for i, (a, b) in enumerate(zip(train, held_out, strict=True), 1):
        here = {"step": 10 * i, "epoch": 2.5 * i}
        history += [{"loss": 1.0, **here}, {names[0]: a, **here}, {names[1]: b, **here}]
    return history


def test_a_run_that_memorises_first():
    summary = summarise(log([0.5, 1.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.3, 0.95, 0.99]))
    assert summary == {
        "fit_step": 20,
        "fit_epoch": 5.0,
        "fit_censored": False,
        "held_out_at_fit": 0.1,
        "memorised_first": True,
        "onset_90": 40,
        "onset_90_epoch": 10.0,
        "onset_90_censored": False,
        "delay_90": 20,
        "delay_90_epochs": 5.0,
        "onset_99": 50,
        "onset_99_epoch": 12.5,
        "onset_99_censored": False,
        "delay_99": 30,
        "delay_99_epochs": 7.5,
        "censored": False,
        "last_step": 50,
        "last_epoch": 12.5,
        "last_held_out": 0.99,
    }


def test_a_run_that_is_cut_off_is_censored_not_finished():
    summary = summarise(log([0.5, 1.0, 1.0], [0.0, 0.1, 0.3]))
    assert summary["onset_90"] is None and summary["onset_90_censored"] is True and summary["censored"] is True
    assert summary["delay_99"] is None and summary["delay_99_epochs"] is None
    assert (summary["last_step"], summary["last_epoch"]) == (30, 7.5)
    assert summary["fit_censored"] is False
    unfitted = summarise(log([0.5], [0.99]))
    assert unfitted["memorised_first"] is None and unfitted["fit_censored"] and unfitted["censored"]
    assert unfitted["onset_99"] == 10 and unfitted["delay_99"] is None and not unfitted["onset_99_censored"]
    json.dumps(unfitted, allow_nan=False)  # no infinity stands for what was not reached


def test_an_onset_that_does_not_last_does_not_count():
    history = log([1.0] * 5, [0.95, 0.96, 0.4, 0.91, 0.92])
    assert onset_step(history) == 40
    assert onset_step(log([1.0] * 2, [0.95, 0.4])) is None


@pytest.mark.parametrize(("length", "expected"), [(1, 10), (2, 10), (3, 40), (4, None)])
def test_the_first_of_several_in_a_row(length, expected):
    history = log([1.0] * 6, [0.95, 0.96, 0.4, 0.91, 0.92, 0.93])
    assert first_streak(history, HELD_OUT, 0.9, length) == expected


def test_the_fit_is_the_first_evaluation_at_99_percent():
    assert fit_step(log([0.98, 0.99, 0.5], [0.0, 0.0, 0.0])) == 20


def slow_summary(evaluations, thresholds):
    """Every definition by trying all candidates; `evaluations`: (step, epoch, train, held-out)."""
    fits = [(step, epoch, held) for step, epoch, train, held in evaluations if train >= 0.99]
    fit = fits[0] if fits else (None, None, None)
    summary = {
        "fit_step": fit[0],
        "fit_epoch": fit[1],
        "fit_censored": not fits,
        "held_out_at_fit": fit[2],
        "memorised_first": fit[2] < 0.5 if fits else None,
        "censored": not fits,
        "last_step": evaluations[-1][0],
        "last_epoch": evaluations[-1][1],
        "last_held_out": evaluations[-1][3],
    }
    for threshold in thresholds:
        name = str(round(100 * threshold, 6)).removesuffix(".0")
        onsets = [e for i, e in enumerate(evaluations) if all(later[3] >= threshold for later in evaluations[i:])]
        step, epoch = onsets[0][:2] if onsets else (None, None)
        summary |= {f"onset_{name}": step, f"onset_{name}_epoch": epoch, f"onset_{name}_censored": not onsets}
        both = bool(fits and onsets)
        summary |= {f"delay_{name}": step - fit[0] if both else None, f"delay_{name}_epochs": epoch - fit[1] if both else None}
        summary["censored"] |= not onsets
    return summary


def random_evaluations(rng, first=1, last=None):
    """Accuracies that go up, with setbacks, ties with the thresholds, and NaN."""
    values = [0.0, 0.3, 0.89, 0.9, 0.98, 0.99, 1.0, math.nan]
    last = rng.randint(first, first + 9) if last is None else last
    result = []
    for i in range(first, last + 1):
        train, held = (rng.choices(values, [1, 1, 1, 1, 1, 2, i, 0.3])[0] for _ in range(2))
        result.append((10 * i, i / 4, train, held))
    return result


def entries(rng, evaluations):
    """As `Trainer` logs them: losses between the evaluations, the splits in either order."""
    history = []
    for step, epoch, train, held in evaluations:
        pair = [{"step": step, "epoch": epoch, "m/train": train}, {"step": step, "epoch": epoch, "m/held": held}]
        history += [{"step": step - 5, "epoch": epoch - 0.125, "loss": 1.0}, *rng.sample(pair, 2)]
    return history


def same(one, other):
    return one.keys() == other.keys() and all(v == other[k] or (v != v and other[k] != other[k]) for k, v in one.items())


@pytest.mark.parametrize("seed", range(100))
def test_summaries_are_those_of_the_definitions_however_the_log_came_about(seed):
    rng = random.Random(seed)
    evaluations = random_evaluations(rng)
    thresholds = rng.choice([(0.9, 0.99), (0.3,), (0.89, 0.995, 1.0)])
    expected = slow_summary(evaluations, thresholds)
    history = entries(rng, evaluations)
    # What is in the log more than once, or of a run that was given up, changes nothing.
    cut = rng.randint(0, len(evaluations) - 1)
    given_up = entries(rng, random_evaluations(rng, cut + 1, cut + rng.randint(1, 4)))
    pieces = entries(rng, evaluations[:cut]), given_up, entries(rng, evaluations[cut:])
    resumed = [entry for piece in pieces for entry in piece]
    again = {"step": evaluations[-1][0], "epoch": evaluations[-1][1], "m/train": rng.random(), "m/held": rng.random()}
    for variant in (history, resumed, [*history, again], [{**logs, "other": "text"} for logs in history]):
        assert same(summarise(variant, "m/train", "m/held", thresholds), expected)
        assert fit_step(variant, "m/train") == expected["fit_step"]
        assert onset_step(variant, "m/held", thresholds[0]) == summarise(variant, "m/train", "m/held", thresholds[:1]).get(
            f"onset_{100 * thresholds[0]:g}"
        )
    for length in (1, 2, 3):
        in_a_row = [
            evaluations[i][0]
            for i in range(len(evaluations) - length + 1)
            if all(e[3] >= 0.9 for e in evaluations[i : i + length])
        ]
        assert first_streak(resumed, "m/held", 0.9, length) == (in_a_row[0] if in_a_row else None)


def test_a_log_without_epochs_has_none():
    summary = summarise([{"step": s, TRAIN: 1.0, HELD_OUT: 1.0} for s in (1, 2)])
    assert summary["fit_step"] == 1 and summary["fit_epoch"] is None and summary["delay_90_epochs"] is None


def test_a_metric_that_the_log_lacks_is_an_error_that_names_those_it_has():
    history = log([1.0], [1.0], names=("eval_train_accuracy", "eval_val_accuracy"))
    with pytest.raises(ValueError, match=r"held_out_metric='eval_validation_accuracy' .*mean '?eval_val_accuracy"):
        summarise(history, "eval_train_accuracy", "eval_validation_accuracy")
    with pytest.raises(ValueError, match=r"metric='x' is not in the log\. .* eval_train_accuracy, eval_val_accuracy$"):
        onset_step(history, "x")
    with pytest.raises(ValueError, match=r"train_metric='eval_train_exact_match' .*no evaluation \(eval_\*\), but loss$"):
        summarise([{"step": 1, "loss": 2.0}])
    with pytest.raises(ValueError, match="The log is empty"):
        summarise([])
    check_metrics(history, train_metric="eval_train_accuracy")
    assert curve(history, "x") == ([], [])


def test_numbers_that_are_no_accuracies_are_refused():
    with pytest.raises(ValueError, match=r"held_out_metric=.* is 93\.5 at step 10.*percentage"):
        summarise(log([1.0], [93.5]))
    with pytest.raises(ValueError, match=r"'eval_train_exact_match' is None at step 10"):
        summarise(log([None], [0.5]))
    for bad in (0, 1.5, 90, math.nan):
        with pytest.raises(ValueError, match=r"thresholds=.* write 90 % as 0.9"):
            summarise(log([1.0], [1.0]), thresholds=(0.9, bad))
        with pytest.raises(ValueError, match="fit_threshold="):
            summarise(log([1.0], [1.0]), fit_threshold=bad)
    with pytest.raises(ValueError, match="length=0"):
        first_streak(log([1.0], [1.0]), HELD_OUT, 0.9, 0)
    with pytest.raises(ValueError, match="no 'step'"):
        summarise([{TRAIN: 1.0, HELD_OUT: 1.0}])
