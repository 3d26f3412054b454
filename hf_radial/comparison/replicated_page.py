"""The page of a grid with replicates, from its rows. The unit of all its statistics is the tuning."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hf_radial.comparison.paired import time_of
from hf_radial.comparison.paired_page import horizons_of
from hf_radial.comparison.pooled import tunings_of
from hf_radial.comparison.replicates import at_edge, sign_flip_test, spread_of
from hf_radial.comparison.statistics import hierarchical, restricted_mean
from hf_radial.comparison.times import number, range_text

HEAD = ["arm", "never got there", "mean time", "by tuning", "spread: tuning", "spread: seeds", "speed-up", "95 %, over tunings"]
HEAD += ["tunings earlier / later", "p", "at an edge"]


def replicated(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each setting and arm. Times are restricted means up to the last epoch of the runs."""
    rows, reference = data["rows"], data["reference"]
    judged = [row for row in rows if row["stage"] == "judged"]
    common, own_ranges = data["tuning"]["common"], data["tuning"]["own"]
    entries = []
    for setting, horizon in horizons_of(judged).items():
        here = [row for row in judged if row["setting"] == setting]
        measure = restricted_mean(horizon)
        for arm in dict.fromkeys(row["arm"] for row in here):
            own = [row for row in here if row["arm"] == arm]
            replicates = sorted({row["replicate"] for row in own})
            times = [[time_of(row) for row in own if row["replicate"] == one] for one in replicates]
            means = [sum(part) / len(part) for part in times]
            ranges = {name: choice for name, choice in {**common, **own_ranges.get(arm, {})}.items() if choice is not None}
            drawn = [next(row["drawn"] for row in own if row["replicate"] == one) for one in replicates]
            entry: dict[str, Any] = {
                "setting": setting,
                "arm": arm,
                "tunings": len(replicates),
                "runs": len(own),
                "never": sum(row["status"] != "solved" for row in own),
                "mean": sum(means) / len(means),
                "means": means,
                "spread": spread_of(times),
                "edges": Counter(edge for one in drawn for edge in at_edge(one, ranges)),
            }
            tunings = tunings_of(here, arm, reference)
            if arm != reference and tunings:
                logs = [math.log(measure(one.reference) / measure(one.arm)) for one in tunings]
                entry["ratio"] = hierarchical(tunings, measure, tasks=False)
                entry["earlier"], entry["later"] = sum(one > 0 for one in logs), sum(one < 0 for one in logs)
                entry["p_value"] = sign_flip_test(logs)
            entries.append(entry)
    return entries


def replicated_table(entries: Sequence[dict[str, Any]], setting: str) -> str:
    """The table of one setting."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for one in (entry for entry in entries if entry["setting"] == setting):
        edges = ", ".join(f"{edge} in {count}" for edge, count in sorted(one["edges"].items())) or "none"
        line = [one["arm"], f"{one['never'] / one['runs']:.0%} of {one['runs']}", number(one["mean"])]
        line += [", ".join(number(mean) for mean in one["means"])]
        line += [f"x {one['spread'].tuning:.2f}", f"x {one['spread'].seeds:.2f}"]
        if "ratio" in one:
            ratio = one["ratio"]
            line += [number(ratio.value), f"{number(ratio.low)} to {number(ratio.high)}", f"{one['earlier']} / {one['later']}"]
            line += [f"{one['p_value']:.2g}", edges]
        else:
            line += ["–", "–", "–", "–", edges]
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def replicated_page(data: dict[str, Any]) -> str:
    """The page: the question, what would count as an answer, the rules, and the tables."""
    entries, tuning = replicated(data), data["tuning"]
    rows = data["rows"]
    judged = [row for row in rows if row["stage"] == "judged"]
    ranges = "; ".join(f"{name} {range_text(choice)}" for name, choice in tuning["common"].items())
    own = "; ".join(
        f"{arm}: {name} {range_text(choice)}" for arm, more in tuning["own"].items() for name, choice in more.items()
    )
    made_on = "; ".join(sorted({str(row.get("made_on")) for row in rows}))
    revisions = ", ".join(sorted({str(row.get("revision")) for row in rows}))
    lines = [
        f"# {data['title']}",
        "",
        data["question"].strip(),
        "",
        f"Made by `{data['command']}` from {data['grid']}.json, which has every run: {len(rows) - len(judged)} of tuning and "
        f"{len(judged)} judged. {data['missing']} runs of the grid were not made.",
        "",
        f"Design: every arm is tuned {data['replicates']} times at each setting, from the start: {tuning['trials']} trials "
        f"({tuning['sampler']}, a sampler seed of its own for each task, arm and replicate) on {len(tuning['seeds'])} seed, "
        f"the best {tuning['finalists']} on {len(tuning['finalist_seeds'])} more, the best of these by mean time judged on "
        f"{len(data['seeds'])} seeds; seeds and splits are those of the replicate. "
        f"Ranges: {ranges}{'; ' + own if own else ''}.",
        "",
        "*Mean time*: the restricted mean of the onset up to the last epoch, with which a run counts that did not get there. "
        "*Spread*: the factor by which times differ (one standard deviation of their logarithm) because of tuning alone, and "
        f"between seeds of one tuning. *Speed-up*: mean time of *{data['reference']}* by the arm's, as a geometric mean over "
        "tunings; its interval resamples tunings, and seeds within them. *p*: exact sign-flip test over tunings. *At an edge*: "
        "tuned values within a twentieth of an end of their range, and in how many tunings.",
        "",
        f"Runs made on {made_on}, at revision {revisions}.",
        "",
    ]
    for setting, horizon in horizons_of(judged).items():
        lines += [f"**{setting}** (up to epoch {number(horizon)})", "", replicated_table(entries, setting)]
    return "\n".join(lines)
