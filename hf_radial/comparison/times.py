"""From rows to times: the onset of each run, or the time until which it had none, and times as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hf_radial.comparison.statistics import Time

NEVER = 1e12  # later than any run's end, in whatever unit
BOUNDS = {0.0: "<", math.inf: ">"}  # of a ratio of medians, one of which lies beyond the end of the runs


def times_of(rows: Sequence[dict[str, Any]], key: str = "onset", horizon: float = 0.0) -> list[Time]:
    """Times of runs. A failed run counts as a run without an onset.

    The list is empty if a run has no time of this kind: runs that shared their steps have no seconds.

    Args:
        horizon: the time until which a failed run certainly had no onset.
    """
    last = {"onset": "last", "onset_steps": "last_steps", "seconds": "last_seconds"}[key]
    if any(row[last] is None for row in rows if row["status"] != "failed"):
        return []
    return [
        Time(row["seed"], horizon, True)
        if row["status"] == "failed"
        else Time(row["seed"], row[key] if row["status"] == "solved" else row[last], row["status"] != "solved")
        for row in rows
    ]


def horizon_of(rows: Sequence[dict[str, Any]]) -> float:
    """The end of a setting's longest run, in epochs. For a failed run, `last` is its planned end."""
    return max((row["last"] for row in rows), default=0.0)


def number(value: float | None, unknown: str = "–") -> str:
    if value is None:
        return unknown
    return "inf" if math.isinf(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number and its interval.

    >>> with_interval(2.0, 1.5, 2.5)
    '2 (1.5 to 2.5)'
    """
    return f"{number(value)} ({number(low)} to {number(high)})"


def range_text(choice: dict[str, Any] | None) -> str:
    """A range in words.

    >>> range_text({"log": [0.1, 5.0]}), range_text({"choices": [10, 30]}), range_text(None)
    ('0.1 to 5 (log)', 'of 10, 30', 'not tuned')
    """
    if choice is None:
        return "not tuned"
    kind, values = next(iter(choice.items()))
    if kind == "choices":
        return "of " + ", ".join(map(str, values))
    return f"{values[0]:g} to {values[1]:g}" + (" (log)" if kind == "log" else "")


def short(setting: str) -> str:
    """A setting without the sizes that do not distinguish tasks.

    >>> short("sparse_parity, bits 40, k 3, train_size 1000, test_size 1000, embedding_size 4")
    'sparse_parity, bits 40, k 3'
    """
    dropped = ("validation_size", "test_size", "embedding_size", "epochs", "evaluate_every", "sampling", "reverse", "zero_pad")
    parts = [part for part in setting.split(", ") if not part.startswith(dropped)]
    return ", ".join(part for part in parts if not (part.startswith("train_size") and "sparse_parity" in parts))
