"""The page of a grid with replicates, from its rows. The unit of all its statistics is the tuning."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hf_radial.comparison.best_tuning import after_the_fit_table, best_table
from hf_radial.comparison.paired import time_of
from hf_radial.comparison.paired_page import horizons_of
from hf_radial.comparison.pooled import tunings_of
from hf_radial.comparison.replicates import at_edge, sign_flip_test, spread_of
from hf_radial.comparison.statistics import RESAMPLES, Ratio, Time, Tuning, hierarchical
from hf_radial.comparison.times import number, range_text, short, with_interval

HEAD = ["arm", "never got there", "mean time", "by tuning", "spread: tuning", "spread: seeds", "speed-up", "95 %, over tunings"]
HEAD += ["tunings earlier / later", "p", "at an edge"]


def mean_time(times: Sequence[Time]) -> float:
    """The mean of times. A run that never got there counts with the end of its setting, which its time is."""
    return sum(time.value for time in times) / len(times)


@cache  # a page and the tables of the documentation ask for the same
def speed_up(tunings: tuple[Tuning, ...], tasks: bool) -> Ratio:
    """The ratio of mean times; see `hierarchical`."""
    return hierarchical(tunings, mean_time, tasks)


def replicated(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each setting and arm. Times are restricted means up to the last epoch of the runs."""
    rows, reference = data["rows"], data["reference"]
    judged = [row for row in rows if row["stage"] == "judged"]
    common, own_ranges = data["tuning"]["common"], data["tuning"]["own"]
    entries = []
    for setting in horizons_of(judged):
        here = [row for row in judged if row["setting"] == setting]
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
            tunings = tuple(tunings_of(here, arm, reference))
            if arm != reference and tunings:
                logs = [math.log(mean_time(one.reference) / mean_time(one.arm)) for one in tunings]
                entry["ratio"] = speed_up(tunings, tasks=False)
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


def over_settings(rows: Sequence[dict[str, Any]], references: Sequence[str]) -> list[dict[str, Any]]:
    """One entry for each arm: how often it never got there, and its ratio to each reference over all settings.

    A ratio is the geometric mean over settings and tunings of the reference's mean time by the arm's. Its interval resamples
    settings, tunings and seeds. `above` counts the settings where the interval over tunings alone lies above 1.
    """
    judged = [row for row in rows if row["stage"] == "judged"]
    settings = dict.fromkeys(row["setting"] for row in judged)
    entries = []
    for arm in dict.fromkeys(row["arm"] for row in judged):
        own = [row for row in judged if row["arm"] == arm]
        entry: dict[str, Any] = {"arm": arm, "runs": len(own), "never": sum(row["status"] != "solved" for row in own)}
        entry["against"] = {}
        for reference in references:
            if arm != reference and (tunings := tuple(tunings_of(judged, arm, reference))):
                by_setting = [tuple(one for one in tunings if one.task == setting) for setting in settings]
                within = [speed_up(part, tasks=False) for part in by_setting if part]
                entry["against"][reference] = {
                    "ratio": speed_up(tunings, tasks=True),
                    "above": sum(one.low > 1 for one in within),
                    "below": sum(one.high < 1 for one in within),
                    "settings": len(within),
                }
        entries.append(entry)
    return entries


def over_settings_table(
    entries: Sequence[dict[str, Any]], references: Sequence[str], names: Mapping[str, str] | None = None
) -> str:
    """Markdown of `over_settings`; `names` replaces names of arms."""
    head = ["", "never got there"]
    for reference in references:
        head += [f"times as early as {reference}, 95 %", "tasks above 1 / below 1"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in entries:
        cells = [(names or {}).get(one["arm"], one["arm"]), f"{one['never'] / one['runs']:.0%} of {one['runs']}"]
        for reference in references:
            found = one["against"].get(reference)
            counts = f"{found['above']} / {found['below']} of {found['settings']}" if found else "–"
            cells += [ratio_text(found["ratio"]) if found else "–", counts]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def by_setting_table(data: dict[str, Any]) -> str:
    """Markdown: a row an arm, a column a setting; how often it never got there, and its ratio to the reference."""
    entries = replicated(data)
    settings = list(dict.fromkeys(entry["setting"] for entry in entries))
    lines = ["|  | " + " | ".join(map(short, settings)) + " |", "|" + "---|" * (1 + len(settings))]
    for arm in dict.fromkeys(entry["arm"] for entry in entries):
        cells = []
        for one in (entry for entry in entries if entry["arm"] == arm):
            ratio = ratio_text(one["ratio"]) + "; " if "ratio" in one else ""
            cells.append(f"{ratio}{one['never'] / one['runs']:.0%} never")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ratio_text(ratio: Ratio) -> str:
    return with_interval(ratio.value, ratio.low, ratio.high)


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
        f"tunings; its interval resamples tunings, and seeds within them, {RESAMPLES:,} times: an end may be off by some "
        "hundredths. *p*: exact sign-flip test over tunings. *At an edge*: "
        "tuned values within a twentieth of an end of their range, and in how many tunings.",
        "",
        "Over all settings, the interval resamples settings, too. *Tasks above 1 / below 1* counts the settings whose own "
        "interval, over tunings, lies there.",
        "",
        over_settings_table(over_settings(judged, [data["reference"]]), [data["reference"]]),
        "The mean over tunings also measures how easily an arm is tuned. With the best tuning of each arm alone, chosen by "
        "what its search saw:",
        "",
        best_table(rows, data["reference"]),
        "Does a run wait after it has fitted its training rows?",
        "",
        after_the_fit_table(rows),
        f"Runs made on {made_on}, at revision {revisions}.",
        "",
    ]
    for setting, horizon in horizons_of(judged).items():
        lines += [f"**{setting}** (up to epoch {number(horizon)})", "", replicated_table(entries, setting)]
    return "\n".join(lines)
