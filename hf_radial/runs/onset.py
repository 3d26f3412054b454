"""When a run fitted its training data, and when it generalised: numbers from its `log_history`.

Definitions, with accuracies as fractions of 1. *Fit*: the first evaluation with a training accuracy of at least 99 %.
*Onset at t*: the first evaluation from which held-out accuracy stays at or above `t` until the end of the log (arXiv 2606.32000
uses t = 90 %). *Delay*: onset minus fit. A run that has no onset by its last evaluation is right-censored: its onset is
`None` with `..._censored: True`. The true onset is later than `last_step`, or never.

How a log is read:

- If `eval_dataset` is a dictionary, the two metrics of one evaluation are separate entries, which belong
  together by step.
- NaN is below every threshold: it does not count as reached, and it ends an onset.
- If a step appears again, its first value counts. The later value is of the same weights (a resumed run with `eval_on_start`)
  or of other weights (`evaluate()` after `load_best_model_at_end`).
- A step smaller than the one before means that the run went on from an earlier checkpoint. Entries from that step on are
  dropped. `Trainer` cuts its log itself; a log that was joined by hand may not be cut.

Nothing here trains, prints or plots. `hf_radial.callbacks.grokking` reports the same numbers during a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any, NamedTuple

TRAIN_METRIC = "eval_train_exact_match"
HELD_OUT_METRIC = "eval_validation_exact_match"
Log = Sequence[dict[str, Any]]


class Point(NamedTuple):
    """One value of one metric; `epoch` is `None` where the log has none."""

    step: int
    epoch: float | None
    value: float


def curve(log_history: Log, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, any metric, by step; two empty lists if the log has none."""
    points = _points(log_history, metric)
    return [point.step for point in points], [point.value for point in points]


def fit_step(log_history: Log, metric: str = TRAIN_METRIC, threshold: float = 0.99) -> int | None:
    """Step of the first evaluation at which the training metric reaches the threshold; `None` if that is later than the log.

    Raises:
        ValueError: the threshold is not in (0, 1], the log lacks the metric, or its values are no fractions of 1.

    >>> fit_step([{"step": 10, "eval_train_exact_match": 0.5}, {"step": 20, "eval_train_exact_match": 1.0}])
    20
    """
    fit = _fit(_accuracies(log_history, metric=metric), check_threshold(threshold=threshold))
    return None if fit is None else fit.step


def onset_step(log_history: Log, metric: str = HELD_OUT_METRIC, threshold: float = 0.9) -> int | None:
    """Step of the first evaluation from which the held-out metric stays at or above the threshold; `None` as in `fit_step`.

    Raises:
        ValueError: as `fit_step`.

    >>> log = [{"step": s, "eval_validation_exact_match": v} for s, v in [(1, 0.95), (2, 0.5), (3, 0.92), (4, 0.99)]]
    >>> onset_step(log)
    3
    """
    onset = _onset(_accuracies(log_history, metric=metric), check_threshold(threshold=threshold))
    return None if onset is None else onset.step


def first_streak(log_history: Log, metric: str, threshold: float, length: int) -> int | None:
    """Step of the first of `length` evaluations in a row at or above the threshold, or `None`.

    Later evaluations do not change it. `onset_step`, in contrast, depends on how long the run goes on.

    Raises:
        ValueError: as `fit_step`, or `length` is smaller than 1.

    >>> log = [{"step": s, "eval_validation_exact_match": v} for s, v in [(1, 0.95), (2, 0.5), (3, 0.92), (4, 0.99)]]
    >>> first_streak(log, "eval_validation_exact_match", 0.9, 2)
    3
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    points, in_a_row = _accuracies(log_history, metric=metric), 0
    check_threshold(threshold=threshold)
    for i, point in enumerate(points):
        in_a_row = in_a_row + 1 if point.value >= threshold else 0
        if in_a_row == length:
            return points[i - length + 1].step
    return None


def summarise(
    log_history: Log,
    train_metric: str = TRAIN_METRIC,
    held_out_metric: str = HELD_OUT_METRIC,
    thresholds: Sequence[float] = (0.9, 0.99),
    fit_threshold: float = 0.99,
) -> dict[str, Any]:
    """Fit, onsets, delays and what was held out at the fit, as one flat dictionary of numbers.

    Args:
        log_history: `trainer.state.log_history`, or the "log_history" of a `trainer_state.json`.
        train_metric: name of the accuracy on training rows, as the log has it.
        held_out_metric: the same for held-out rows.
        thresholds: held-out accuracies in (0, 1]; each gives the keys below with its percentage for `90`.
        fit_threshold: training accuracy in (0, 1].

    Returns:
        fit_step, fit_epoch, fit_censored: the fit. An epoch is `None` where the log has none.
        held_out_at_fit: held-out accuracy at that step, `None` if it was not evaluated there.
        memorised_first: whether there was a delay to shorten: that accuracy is below 50 %. `None` if it is not known.
        onset_90, onset_90_epoch, onset_90_censored: the onset at 90 %, its step first.
        delay_90, delay_90_epochs: onset minus fit; `None` if one of them is. If only the onset is, it is more than
            `last_step - fit_step`. It is negative where held-out rows came first.
        censored: whether the fit or any of the onsets is.
        last_step, last_epoch, last_held_out: the last evaluation of the held-out metric; what is censored is later than it.

    Raises:
        ValueError: a threshold is not in (0, 1], the log lacks a metric (the message names those it has), or the values of one
            are no fractions of 1.

    >>> log = [{"step": 5, "epoch": 1.0, "eval_a": 1.0}, {"step": 5, "epoch": 1.0, "eval_b": 0.2}]
    >>> log += [{"step": 10, "epoch": 2.0, "eval_a": 1.0}, {"step": 10, "epoch": 2.0, "eval_b": 0.95}]
    >>> summary = summarise(log, "eval_a", "eval_b")
    >>> summary["fit_step"], summary["onset_90"], summary["onset_90_epoch"], summary["delay_90_epochs"]
    (5, 10, 2.0, 1.0)
    >>> summary["onset_99"], summary["onset_99_censored"], summary["last_step"]
    (None, True, 10)
    """
    check_threshold(fit_threshold=fit_threshold)
    for threshold in thresholds:
        check_threshold(thresholds=threshold)
    check_metrics(log_history, train_metric=train_metric, held_out_metric=held_out_metric)
    train = _accuracies(log_history, train_metric=train_metric)
    held_out = _accuracies(log_history, held_out_metric=held_out_metric)

    fit = _fit(train, fit_threshold)
    at_fit = None if fit is None else next((point.value for point in held_out if point.step == fit.step), None)
    summary: dict[str, Any] = {
        "fit_step": None if fit is None else fit.step,
        "fit_epoch": None if fit is None else fit.epoch,
        "fit_censored": fit is None,
        "held_out_at_fit": at_fit,
        "memorised_first": None if at_fit is None else at_fit < 0.5,
    }
    onsets = {f"{100 * threshold:g}": _onset(held_out, threshold) for threshold in thresholds}
    for percent, onset in onsets.items():
        epochs = None
        if fit is not None and onset is not None and fit.epoch is not None and onset.epoch is not None:
            epochs = onset.epoch - fit.epoch
        summary |= {
            f"onset_{percent}": None if onset is None else onset.step,
            f"onset_{percent}_epoch": None if onset is None else onset.epoch,
            f"onset_{percent}_censored": onset is None,
            f"delay_{percent}": None if fit is None or onset is None else onset.step - fit.step,
            f"delay_{percent}_epochs": epochs,
        }
    last = held_out[-1]
    return {
        **summary,
        "censored": fit is None or None in onsets.values(),
        "last_step": last.step,
        "last_epoch": last.epoch,
        "last_held_out": last.value,
    }


def format_step(step: float | None, last_step: float | None) -> str:
    """A step for a table; what a run had not reached when it ended is later than its last step.

    >>> format_step(1500, 3000), format_step(None, 3000)
    ('step 1,500', 'not by step 3,000')
    """
    if step is not None:
        return f"step {step:,.0f}"
    return "?" if last_step is None else f"not by step {last_step:,.0f}"


def check_names(**names: Any) -> None:
    """Raise a `ValueError` unless the names of metrics, given as argument name = metric name, are texts that are not empty."""
    for argument, name in names.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"{argument}={name!r} must be the name of a metric, such as {TRAIN_METRIC!r}")


def check_metrics(log_history: Log, **metrics: Any) -> None:
    """Raise a `ValueError` if the log lacks one of the metrics, given as argument name = metric name.

    >>> check_metrics([{"step": 5, "eval_val_accuracy": 0.5}], held_out_metric="eval_accuracy")
    Traceback (most recent call last):
        ...
    ValueError: held_out_metric='eval_accuracy' is not in the log; did you mean 'eval_val_accuracy'? The log has
    the evaluation metrics: eval_val_accuracy
    """
    _check_log(log_history)
    check_names(**metrics)
    for argument, metric in metrics.items():
        if any(metric in logs for logs in log_history):
            continue
        names = sorted({name for logs in log_history for name in logs} - {"step", "epoch"})
        near = " or ".join(repr(name) for name in get_close_matches(metric, names))
        evaluated = [name for name in names if name.startswith("eval_")]
        if evaluated:
            has = f"The log has the evaluation metrics: {', '.join(evaluated)}"
        else:
            has = f"The log has no evaluation (eval_*), but {', '.join(names[:20])}" if names else "The log is empty"
        raise ValueError(f"{argument}={metric!r} is not in the log{f'; did you mean {near}?' if near else '.'} {has}")


def _check_log(log_history: Any) -> None:
    if not isinstance(log_history, Sequence) or not all(isinstance(logs, Mapping) for logs in log_history):
        inside = "; give its 'log_history'" if isinstance(log_history, Mapping) and "log_history" in log_history else ""
        raise ValueError(
            f"log_history is a {type(log_history).__name__}, not a list of dictionaries such as "
            f"trainer.state.log_history{inside}"
        )


def check_threshold(**thresholds: Any) -> float:
    """The threshold, given as argument name = value; a `ValueError` unless it is a fraction of 1 above 0."""
    argument, threshold = next(iter(thresholds.items()))
    is_number = not isinstance(threshold, bool) and isinstance(threshold, Real)
    if not is_number or not 0 < threshold <= 1:
        raise ValueError(f"{argument}={threshold!r} must be an accuracy above 0 and at most 1; write 90 % as 0.9")
    return float(threshold)


def _points(log_history: Log, metric: str) -> list[Point]:
    """The values of one metric by step, each step once and of one run; see the top of this file."""
    _check_log(log_history)
    points: list[Point] = []
    before: float = -1
    for logs in log_history:
        if "step" not in logs:
            raise ValueError(f"an entry of the log has no 'step', so it is no log_history of a Trainer: {logs}")
        is_number = isinstance(logs["step"], Real)
        if not is_number or not abs(logs["step"]) < 2**63:
            raise ValueError(f"an entry of the log has the step {logs['step']!r}, which is no number: {logs}")
        step = int(float(logs["step"]))
        if step < before:
            while points and points[-1].step >= step:
                points.pop()
        before = step
        if metric in logs and not (points and points[-1].step == step):
            try:
                value = float(logs[metric])
            except (TypeError, ValueError):
                raise ValueError(f"metric {metric!r} is {logs[metric]!r} at step {step}; it must be a number") from None
            points.append(Point(step, logs.get("epoch"), value))
    return points


def _accuracies(log_history: Log, **named: str) -> list[Point]:
    """The points of a metric, given as argument name = metric name, of which there is at least one and none is above 1."""
    check_metrics(log_history, **named)
    ((argument, metric),) = named.items()
    points = _points(log_history, metric)
    for point in points:
        if point.value > 1 + 1e-6:  # a mean of float32 may be that much above
            raise ValueError(
                f"{argument}={metric!r} is {point.value:g} at step {point.step}, but an accuracy is at most 1; if it is a "
                "percentage, divide it by 100 in compute_metrics"
            )
    return points


def _fit(points: Sequence[Point], threshold: float) -> Point | None:
    return next((point for point in points if point.value >= threshold), None)


def _onset(points: Sequence[Point], threshold: float) -> Point | None:
    onset = None
    for point in points:
        onset = (point if onset is None else onset) if point.value >= threshold else None
    return onset
