"""Results of a grid over all of its settings: ratios, their intervals, and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hf_radial.comparison.statistics import Tuning, hierarchical
from hf_radial.comparison.times import BOUNDS, horizon_of, number, times_of


def pooled(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm against the reference over all settings, the earliest first.

    `ratio` is the geometric mean of the ratios of medians. If a median lies beyond the end of the runs, its bound is used.
    `bound` is then "<" or ">", or both if the direction is unknown. `seconds_ratio` is the same ratio for seconds, over the
    settings where both have a median. `earlier` and `later` count pairs of runs. `p_value` is from their sign test, and
    `q_value` corrects it by Benjamini and Hochberg's control of false discoveries over the arms.
    """
    from scipy import stats

    found: list[dict[str, Any]] = []
    # The reference is the arm without an entry "speedup".
    compared = {entry["arm"] for entry in entries if entry.get("speedup")}
    seconds_of = {entry["setting"]: entry["seconds"] for entry in entries if entry["arm"] not in compared and entry["seconds"]}
    for arm in dict.fromkeys(entry["arm"] for entry in entries if entry.get("speedup")):
        own = [entry["speedup"] for entry in entries if entry["arm"] == arm and entry.get("speedup")]
        known = [one for one in own if one["ratio"] is not None]
        earlier, later = sum(one["earlier"] for one in own), sum(one["later"] for one in own)
        seconds = [
            seconds_of[entry["setting"]] / entry["seconds"]
            for entry in entries
            if entry["arm"] == arm and entry["seconds"] and entry["setting"] in seconds_of
        ]
        found.append(
            {
                "arm": arm,
                "ratio": math.exp(sum(math.log(one["bound"]) for one in known) / len(known)) if known else None,
                "bound": "".join(sorted({BOUNDS[one["ratio"]] for one in known if one["ratio"] in BOUNDS})),
                "seconds_ratio": math.exp(sum(map(math.log, seconds)) / len(seconds)) if seconds else None,
                "earlier": earlier,
                "later": later,
                "p_value": float(stats.binomtest(earlier, earlier + later).pvalue) if earlier + later else 1.0,
            }
        )
    if found:
        for one, q_value in zip(found, stats.false_discovery_control([one["p_value"] for one in found]), strict=True):
            one["q_value"] = float(q_value)
    return sorted(found, key=lambda one: -(one["ratio"] or 0.0))


def tunings_of(rows: Sequence[dict[str, Any]], arm: str, reference: str) -> list[Tuning]:
    """The judged runs of an arm and of the reference: a `Tuning` for each setting and replicate that has both."""
    found = []
    judged = [row for row in rows if row["stage"] == "judged"]
    for setting in dict.fromkeys(row["setting"] for row in judged):
        here = [row for row in judged if row["setting"] == setting]
        horizon = horizon_of(here)
        for replicate in dict.fromkeys(row.get("replicate", 0) for row in here):
            own = [row for row in here if row.get("replicate", 0) == replicate]
            times = [times_of([row for row in own if row["arm"] == name], horizon=horizon) for name in (arm, reference)]
            if all(times):
                found.append(Tuning(setting, tuple(times[0]), tuple(times[1])))
    return found


def over_all_text(data: dict[str, Any]) -> list[str]:
    """The explanation of the numbers in `over_all`, for the page."""
    pairs = len(data["seeds"])
    return [
        "Over all settings. *Speed-up*: the geometric mean over settings of the median onset of "
        f"*{data['reference']}* divided by the arm's. *95 %*: a bootstrap that resamples settings, and seeds within each. Each "
        "arm was tuned once at a setting, so that the luck of tuning is in the interval only as far as it differs between "
        "settings. *Of one tuning*: pairs of runs at the one configuration that tuning led to; with "
        f"{pairs} pairs a setting, no sign test of one setting can be below {0.5 ** (pairs - 1):.2g}. *After correction*: "
        "Benjamini and Hochberg's, over the arms. Settings where neither the arm nor the reference got there say nothing of "
        "their ratio; that of seconds is of settings where both did.",
        "",
    ]


def over_all(entries: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], reference: str) -> str:
    """`pooled` as a table, with the interval over settings and seeds."""
    head = ["arm", "speed-up", "95 %", "in seconds", "pairs of one tuning earlier", "later", "sign test", "after correction"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in pooled(entries):
        ratio = "–" if one["ratio"] is None or len(one["bound"]) > 1 else f"{one['bound']} {number(one['ratio'])}".strip()
        tests = f"{one['p_value']:.2g} | {one['q_value']:.2g}"
        found = hierarchical(tunings_of(rows, one["arm"], reference))
        interval = "–" if ratio.startswith("–") else f"{number(found.low)} to {number(found.high)}"
        ratio += f" | {interval} | {number(one['seconds_ratio'])}"
        lines.append(f"| {one['arm']} | {ratio} | {one['earlier']} | {one['later']} | {tests} |")
    return "\n".join(lines) + "\n"
