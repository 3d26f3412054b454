"""The page of a paired design, from its rows: shares of solved runs, and paired ratios with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_radial.comparison.paired import PairedRatio, compare_paired, pairs_of, ratio_of_means, time_of, where_both
from hf_radial.comparison.statistics import Time, restricted_mean
from hf_radial.comparison.times import number, range_text, with_interval

HEAD = ["arm", "solved", "never got there", "mean time"]


def horizons_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Setting -> the last epoch of its runs, the horizon of the mean times."""
    return {row["setting"]: float(row["options"]["epochs"]) for row in rows}


def shares(rows: Sequence[dict[str, Any]], references: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of each setting, and those over all settings where there are several; see `shares_of`."""
    settings: list[str | None] = list(horizons_of(rows))
    return [entry for one in [*settings, *([None] if len(settings) > 1 else [])] for entry in shares_of(rows, references, one)]


def shares_of(rows: Sequence[dict[str, Any]], references: Sequence[str], setting: str | None) -> list[dict[str, Any]]:
    """One entry for each arm in one setting, or over all settings for `None`: counts, mean times, and ratios over draws.

    `mean` is the restricted mean time up to the horizon, in epochs. It is `None` over all settings.
    """
    horizons = horizons_of(rows)
    here = [row for row in rows if setting in (None, row["setting"])]
    entries = []
    for arm in dict.fromkeys(row["arm"] for row in here):
        own = [row for row in here if row["arm"] == arm]
        solved = sum(row["status"] == "solved" for row in own)
        entry: dict[str, Any] = {"setting": setting, "arm": arm, "runs": len(own), "solved": solved, "mean": None}
        if setting is not None:
            horizon = horizons[setting]
            times = [
                Time(row["seed"], row["onset"], False) if row["status"] == "solved" else Time(row["seed"], horizon, True)
                for row in own
            ]
            entry["mean"] = restricted_mean(horizon)(times)
        entry["against"] = {
            reference: compare_paired(pairs, horizons)
            for reference in references
            if reference != arm and (pairs := pairs_of(here, arm, reference))
        }
        entries.append(entry)
    return entries


def ratio_text(found: PairedRatio | None) -> list[str]:
    """A ratio with its interval, and the counts behind it with their sign test.

    >>> ratio_text(PairedRatio(2.0, 1.5, 2.5, 8, 1, 12, 0.04))
    ['2 (1.5 to 2.5)', '8 / 1 of 12, p 0.04']
    """
    if found is None:
        return ["–", "–"]
    ratio = "–" if found.ratio is None else with_interval(found.ratio, found.low, found.high)
    p_value = "" if found.p_value is None else f", p {found.p_value:.2g}"
    return [ratio, f"{found.earlier} / {found.later} of {found.draws}{p_value}"]


def paired_table(entries: Sequence[dict[str, Any]], references: Sequence[str], setting: str | None) -> str:
    """The table of one setting, or of all settings together for `None`."""
    head = list(HEAD)
    for reference in references:
        head += [f"against {reference}", "earlier / later"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for entry in (entry for entry in entries if entry["setting"] == setting):
        never = entry["runs"] - entry["solved"]
        line = [entry["arm"], f"{entry['solved']} of {entry['runs']}", f"{never / entry['runs']:.0%}", number(entry["mean"])]
        for reference in references:
            line += ratio_text(entry["against"].get(reference))
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def over_all_draws(rows: Sequence[dict[str, Any]], references: Sequence[str]) -> str:
    """The ratio of mean times over all draws, and the ratio where both got there; over all settings."""
    horizons = horizons_of(rows)
    head = ["arm", *(f"{reference} / arm, {over}" for reference in references for over in ("all draws", "both get there"))]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = [arm]
        for reference in references:
            pairs = pairs_of(rows, arm, reference) if arm != reference else {}
            both = compare_paired(where_both(pairs, horizons), horizons)
            cells.append(with_interval(*ratio_of_means(pairs, horizons)) if pairs else "–")
            draws = f"{both.draws} draw{'s' * (both.draws != 1)}"
            cells.append("–" if both.ratio is None else f"{with_interval(both.ratio, both.low, both.high)}, {draws}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def by_value(rows: Sequence[dict[str, Any]], name: str) -> str:
    """For each value of one crossed number: how many runs of each arm were solved, and their mean time."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    horizons = horizons_of(rows)
    lines = [f"| {name} | " + " | ".join(arms) + " |", "|" + "---|" * (1 + len(arms))]
    for value in sorted({row["drawn"][name] for row in rows}):
        line = [f"{value:g}"]
        for arm in arms:
            own = [row for row in rows if row["arm"] == arm and row["drawn"][name] == value]
            solved = sum(row["status"] == "solved" for row in own)
            mean = sum(min(time_of(row), horizons[row["setting"]]) for row in own) / max(1, len(own))
            line.append(f"{solved} of {len(own)}, {number(mean)}" if own else "–")
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def best_values(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Each arm at its best combination, which has the smallest mean time. As the best of many, it is partly luck."""
    horizons = horizons_of(rows)
    lines = ["| arm | best combination | got there | mean time |", "|---|---|---|---|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in (row for row in rows if row["arm"] == arm):
            groups.setdefault(tuple(row["drawn"][name] for name in names), []).append(row)
        means = {key: sum(min(time_of(row), horizons[row["setting"]]) for row in own) / len(own) for key, own in groups.items()}
        best = min(means, key=lambda key: means[key])
        told = ", ".join(f"{name} {value:g}" for name, value in zip(names, best, strict=True))
        solved = sum(row["status"] == "solved" for row in groups[best])
        lines.append(f"| {arm} | {told} | {solved} of {len(groups[best])} | {number(means[best])} |")
    return "\n".join(lines) + "\n"


def main_table(data: dict[str, Any]) -> str:
    """The table of all settings, or of the only one."""
    references = references_of(data)
    settings = list(dict.fromkeys(row["setting"] for row in data["rows"]))
    only = None if len(settings) > 1 else settings[0]
    return paired_table(shares_of(data["rows"], references, only), references, only)


def paired_page(data: dict[str, Any]) -> str:
    """The page: the question, what would count as an answer, the rules, and the tables."""
    rows, paired = data["rows"], data["paired"]
    references = references_of(data)
    entries = shares(rows, references)
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    made_on = "; ".join(sorted({str(row.get("made_on")) for row in rows}))
    revisions = ", ".join(sorted({row.get("revision") or "unknown (git did not answer)" for row in rows}))
    ranges = "; ".join(f"{name} {range_text(choice)}" for name, choice in paired["common"].items())
    design = f"Every combination {paired['draws']} times" if paired.get("cross") else f"{paired['draws']} random draws"
    lines = [
        f"# {data['title']}",
        "",
        data["question"].strip(),
        "",
        f"Made by `{data['command']}` from {data['grid']}.json, which has every run. {len(rows)} runs; {data['missing']} runs "
        "of the grid were not made.",
        "",
        f"Design: paired. {design} a setting ({ranges}), each with a fresh seed and split; every arm at "
        "each draw, at one fixed strength. Nothing is tuned. *Solved*: three evaluations in a row at 95 % or above before the "
        "last epoch. *Mean time*: the restricted mean of the onset up to the last epoch; a run that did not get there "
        "counts with the last epoch. *Against*: the geometric mean, over draws that at least one of the two solved, of the "
        "reference's time by the arm's (above 1 the arm is earlier), and its 95 % interval from a bootstrap over the draws of "
        "each setting. An arm that gets there at more draws, late, has a smaller ratio over them, but not a larger mean time, "
        "which is over all draws. *Earlier / later*: on how many draws, and p of the sign test over them.",
        "",
        f"Runs made on {made_on}, at revision {revisions}.",
        "",
    ]
    if len(settings) > 1:
        lines += ["**All settings**", "", paired_table(entries, references, None)]
    lines += [
        "Does an arm get there more often, or does it get there sooner? *All draws*: the mean time of the reference divided by",
        "that of the arm. Each time is a share of the last epoch. *Both get there*: the ratio over the draws that both solved.",
        "",
        over_all_draws(rows, references),
    ]
    for setting in settings:
        end = number(horizons_of(rows)[setting])
        lines += [f"**{setting}** (up to epoch {end})", "", paired_table(entries, references, setting)]
        if paired.get("cross"):
            own = [row for row in rows if row["setting"] == setting]
            lines += ["Got there, and mean time, by value:", ""]
            lines += [by_value(own, name) for name in paired["common"]]
            lines += ["Each at its own best combination:", "", best_values(own, list(paired["common"]))]
    return "\n".join(lines)


def references_of(data: dict[str, Any]) -> list[str]:
    """The arms that others are compared with: the grid's reference, and the arms of `also_against`."""
    return [data["reference"], *(data["paired"].get("also_against") or [])]
