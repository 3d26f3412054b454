"""The best of an arm's tunings, and what its runs do after the fit: two questions to the rows of a grid with replicates.

The mean over tunings says what a user gets who tunes once. It also measures how easily an arm is tuned. The best of all
tunings, chosen by what the search saw and not by what was judged, is nearer to what the arm can do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from hf_radial.comparison.paired import time_of
from hf_radial.comparison.times import number, short

Rows = Sequence[dict[str, Any]]


def best_of_tunings(rows: Rows) -> dict[tuple[str, str], float]:
    """(setting, arm) -> the mean judged time of the tuning whose winner had the best mean time in its own search.

    >>> def row(replicate, stage, onset):
    ...     same = {"setting": "s", "arm": "a", "drawn": {}, "status": "solved"}
    ...     return {**same, "replicate": replicate, "stage": stage, "onset": onset}
    >>> rows = [row(0, "tuning", 10.0), row(0, "judged", 14.0), row(1, "tuning", 11.0), row(1, "judged", 9.0)]
    >>> best_of_tunings(rows)
    {('s', 'a'): 14.0}
    """
    searched: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    judged: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        by_tuning = judged if row["stage"] == "judged" else searched
        by_tuning.setdefault((row["setting"], row["arm"], row["replicate"]), []).append(row)
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for key, own in judged.items():
        promised = [time_of(row) for row in searched[key] if row["drawn"] == own[0]["drawn"]]
        if key[:2] not in found or fmean(promised) < found[key[:2]][0]:  # of equals the first: what was judged has no say
            found[key[:2]] = fmean(promised), fmean(map(time_of, own))
    return {key: time for key, (_, time) in found.items()}


def best_table(rows: Rows, reference: str) -> str:
    """By setting: the reference's mean time by the arm's, of the best tuning of each; and the geometric mean, in Markdown."""
    best = best_of_tunings(rows)
    settings, arms = (list(dict.fromkeys(key[i] for key in best)) for i in (0, 1))
    lines = [f"| best tuning of each | {' | '.join(map(short, settings))} | over all |", "|" + "---|" * (2 + len(settings))]
    for arm in arms:
        if arm != reference:
            ratios = [best[setting, reference] / best[setting, arm] for setting in settings]
            lines.append(f"| {' | '.join([arm, *map(number, ratios), number(math.exp(fmean(map(math.log, ratios))))])} |")
    return "\n".join(lines) + "\n"


def after_the_fit(rows: Rows) -> dict[str, tuple[int, int, int]]:
    """Arm -> its judged runs that fitted; of these, how many generalised more than one evaluation later; and how many never."""
    found: dict[str, tuple[int, int, int]] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        fitted = [row for row in rows if row["stage"] == "judged" and row["arm"] == arm and row["fit"] is not None]
        solved = [row for row in fitted if row["status"] == "solved"]
        late = sum(row["onset"] > row["fit"] + row["options"]["evaluate_every"] for row in solved)
        found[arm] = len(fitted), late, len(fitted) - len(solved)
    return found


def after_the_fit_table(rows: Rows) -> str:
    """Markdown of `after_the_fit`."""
    lines = ["| arm | runs that fitted | generalised more than one evaluation later | never generalised |", "|---|---|---|---|"]
    lines += [f"| {arm} | {' | '.join(map(str, counts))} |" for arm, counts in after_the_fit(rows).items()]
    return "\n".join(lines) + "\n"
