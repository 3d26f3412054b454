"""When a run had fitted its training data, and when it generalised: numbers read off a `log_history`.

Definitions. *Fit*: the first evaluation at which training accuracy is at least 99 %. *Onset at t*: the first evaluation from
which held-out accuracy stays at or above `t` to the end of the log (arXiv 2606.32000 uses t = 90 %). A run that had not got
there when it ended is right-censored: its onset is `None`, and it is later than its last step, not absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TRAIN_METRIC = "eval_train_exact_match"
HELD_OUT_METRIC = "eval_validation_exact_match"


def curve(log_history: Sequence[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, in the order of the log."""
    points = [(int(logs["step"]), float(logs[metric])) for logs in log_history if metric in logs]
    return [step for step, _ in points], [value for _, value in points]


def fit_step(log_history: Sequence[dict[str, Any]], metric: str = TRAIN_METRIC, threshold: float = 0.99) -> int | None:
    """Step of the first evaluation at which the training metric reaches the threshold, or `None`.

    >>> fit_step([{"step": 10, "eval_train_exact_match": 0.5}, {"step": 20, "eval_train_exact_match": 1.0}])
    20
    """
    return next((step for step, value in zip(*curve(log_history, metric), strict=True) if value >= threshold), None)


def onset_step(log_history: Sequence[dict[str, Any]], metric: str = HELD_OUT_METRIC, threshold: float = 0.9) -> int | None:
    """Step of the first evaluation from which the held-out metric stays at or above the threshold, or `None`.

    >>> log = [{"step": s, "eval_validation_exact_match": v} for s, v in [(1, 0.95), (2, 0.5), (3, 0.92), (4, 0.99)]]
    >>> onset_step(log)
    3
    """
    onset = None
    for step, value in zip(*curve(log_history, metric), strict=True):
        onset = (step if onset is None else onset) if value >= threshold else None
    return onset


def first_of_run(log_history: Sequence[dict[str, Any]], metric: str, threshold: float, length: int) -> int | None:
    """Step of the first of `length` evaluations in a row at or above the threshold, or `None`.

    Unlike `onset_step` it does not look at what comes later, so it does not depend on how long the run went on.

    >>> log = [{"step": s, "eval_validation_exact_match": v} for s, v in [(1, 0.95), (2, 0.5), (3, 0.92), (4, 0.99)]]
    >>> first_of_run(log, "eval_validation_exact_match", 0.9, 2)
    3
    """
    steps, values = curve(log_history, metric)
    for i in range(len(values) - length + 1):
        if min(values[i : i + length]) >= threshold:
            return steps[i]
    return None


def format_step(step: float | None, last_step: float | None) -> str:
    """A step for a table; what a run had not reached when it ended is later than its last step.

    >>> format_step(1500, 3000), format_step(None, 3000)
    ('step 1,500', 'not by step 3,000')
    """
    if step is not None:
        return f"step {step:,.0f}"
    return "?" if last_step is None else f"not by step {last_step:,.0f}"


def summarise(log_history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Fit, onsets and what was held out at the fit, as one flat dictionary of numbers.

    `memorised_first` says whether there was a delay to shorten: at the fit, held-out accuracy was below 50 %. It is `None` if
    the run never fitted its data.
    """
    fit = fit_step(log_history)
    steps, held_out = curve(log_history, HELD_OUT_METRIC)
    at_fit = None if fit is None else dict(zip(steps, held_out, strict=True)).get(fit)
    onset_90, onset_99 = onset_step(log_history, threshold=0.9), onset_step(log_history, threshold=0.99)
    return {
        "fit_step": fit,
        "held_out_at_fit": at_fit,
        "memorised_first": None if at_fit is None else at_fit < 0.5,
        "onset_90": onset_90,
        "onset_99": onset_99,
        "delay_99": None if fit is None or onset_99 is None else onset_99 - fit,
        "last_step": steps[-1] if steps else None,
        "last_held_out": held_out[-1] if held_out else None,
    }
