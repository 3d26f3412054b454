"""The tables and the figure of a comparison, made only from its rows: Markdown, LaTeX, Parquet, PNG.

A row is one run: `setting`, `arm`, `stage` ("tuning" or "judged"), `seed`, `status` ("solved", "censored" or "failed"), `onset`
and `last` in epochs, `onset_steps`, `seconds` until the onset, `test`, and its options.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_radial.comparison.draws import repeated_text
from hf_radial.comparison.paired_page import paired_page
from hf_radial.comparison.pooled import over_all, over_all_text
from hf_radial.comparison.replicated_page import replicated_page
from hf_radial.comparison.statistics import known_interval, median_time, speedup, survival
from hf_radial.comparison.times import BOUNDS, NEVER, horizon_of, number, range_text, short, times_of
from hf_radial.runs.record import made_on
from hf_radial.safe_files import replacing, write_text

HEAD = ["arm", "tuned to", "tuning runs solved", "solved", "fit", "onset, epochs", "steps", "seconds", "test accuracy"]
HEAD += ["speed-up", "95 %, over seeds", "pairs of one tuning", "sign test"]


def summary(rows: Sequence[dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """One entry for each setting and arm, of the judged runs. A median is None if fewer than half have an onset."""
    out = []
    settings: list[str] = list(dict.fromkeys(row["setting"] for row in rows))
    for setting in settings:
        here = [row for row in rows if row["setting"] == setting and row["stage"] == "judged"]
        horizon = horizon_of(here)
        base = times_of([row for row in here if row["arm"] == reference], horizon=horizon)
        for arm in dict.fromkeys(row["arm"] for row in here):
            own = [row for row in here if row["arm"] == arm]
            times = times_of(own, horizon=horizon)
            trials = [row for row in rows if (row["setting"], row["arm"], row["stage"]) == (setting, arm, "tuning")]
            tests = sorted(row["test"] for row in own if row.get("test") is not None)
            fits = sorted(math.inf if row.get("fit") is None else row["fit"] for row in own)  # a run that never fits comes last
            entry: dict[str, Any] = {
                "setting": setting,
                "arm": arm,
                "drawn": own[0].get("drawn") or {},
                "runs": len(own),
                "solved": sum(row["status"] == "solved" for row in own),
                "censored": sum(row["status"] == "censored" for row in own),
                "failed": sum(row["status"] == "failed" for row in own),
                "fit": fits[len(fits) // 2] if fits[len(fits) // 2] < math.inf else None,
                "onset": median_time(times),
                "last": max((time.value for time in times), default=None),
                "trials": len(trials),
                "trials_solved": sum(row["status"] == "solved" for row in trials),
                "test": tests[len(tests) // 2] if len(tests) == len(own) else None,
                "steps": median_time(times_of(own, "onset_steps", NEVER)),
                "seconds": median_time(times_of(own, "seconds", NEVER)),
            }
            if arm != reference and times and base:
                own_time, its_time = median_time(times) or entry["last"], median_time(base) or max(time.value for time in base)
                entry["speedup"] = {**vars(speedup(times, base)), "bound": its_time / own_time}
            out.append(entry)
    return out


def onset_text(entry: dict[str, Any]) -> str:
    """The median onset, or a bound if it lies beyond the end of the runs."""
    return number(entry["onset"], f"> {number(entry['last'])}" if entry["last"] is not None else "–")


def cells(entry: dict[str, Any]) -> list[str]:
    """One line of the table, as a list of texts."""
    solved = f"{entry['solved']} of {entry['runs']}" + (f", {entry['failed']} FAILED" if entry["failed"] else "")
    drawn = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in entry["drawn"].items()
    )
    trials = f"{entry['trials_solved']} of {entry['trials']}" if entry["trials"] else "–"
    line = [entry["arm"], drawn or "–", trials, solved, number(entry["fit"]), onset_text(entry), number(entry["steps"])]
    line += [number(entry["seconds"]), "–" if entry["test"] is None else f"{entry['test']:.3f}"]
    found = entry.get("speedup")
    if not found:
        return [*line, "–", "–", "–", "–"]
    ends = known_interval(found["low"], found["high"]) if found["pairs"] != 1 else None  # a single pair has no interval
    interval = f"{number(ends[0])} to {number(ends[1])}" if ends else "–"
    seeds = f"{found['earlier']} earlier, {found['later']} later"
    # If one of the two medians lies beyond the end of the runs, the ratio is a bound.
    sign = BOUNDS.get(found["ratio"], "")
    ratio = f"{sign} {number(found['bound'] if sign else found['ratio'])}".strip()
    return [*line, ratio, interval, seeds, "–" if found["p_value"] is None else f"{found['p_value']:.2g}"]


def markdown(entries: Sequence[dict[str, Any]]) -> str:
    """The table, with a section for each setting."""
    lines = []
    for setting in dict.fromkeys(entry["setting"] for entry in entries):
        if setting:
            lines += [f"**{setting}**", ""]
        lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(cells(entry)) + " |" for entry in entries if entry["setting"] == setting]
        lines.append("")
    return "\n".join(lines)


def overview(entries: Sequence[dict[str, Any]], arms: Sequence[str] | None = None, fit: bool = False) -> str:
    """Median onsets in epochs, with the number of solved runs if not all are: a table of arms and settings.

    The shorter of the two goes across.

    Args:
        entries: from `summary`.
        arms: the arms to show, in this order; `None` for all.
        fit: put the median epoch of fitting the training rows before each onset, "fit / onset".
    """
    settings = list(dict.fromkeys(entry["setting"] for entry in entries))
    arms = list(dict.fromkeys(entry["arm"] for entry in entries)) if arms is None else arms
    found = {
        (entry["setting"], entry["arm"]): f"{number(entry['fit'])} / {onset_cell(entry)}" if fit else onset_cell(entry)
        for entry in entries
    }
    grid = [["", *map(short, settings)], *([arm, *(found.get((setting, arm), "–") for setting in settings)] for arm in arms)]
    if len(settings) > len(arms) or len(settings) > 6:
        grid = [list(line) for line in zip(*grid, strict=True)]
    lines = ["| " + " | ".join(line) + " |" for line in grid]
    return "\n".join([lines[0], "|" + "---|" * len(grid[0]), *lines[1:]]) + "\n"


def beside_published(data: dict[str, Any], entries: Sequence[dict[str, Any]]) -> list[str]:
    """Published onsets next to ours in the same cells."""
    lines = ["Published, and here:", "", "| | setting | arm | published onset | here |", "|---|---|---|---|---|"]
    for item in data["published"]:
        settings = {
            row["setting"]
            for row in data["rows"]
            if row["arm"] == item["arm"] and all(row["options"].get(name) == value for name, value in item["setting"].items())
        }
        for entry in entries:
            if entry["arm"] == item["arm"] and entry["setting"] in settings:
                said = item["onset"] if isinstance(item["onset"], str) else f"{item['onset']:,}"
                lines.append(f"| {item['where']} | {short(entry['setting'])} | {item['arm']} | {said} | {onset_cell(entry)} |")
    return [*lines, ""]


def onset_cell(entry: dict[str, Any]) -> str:
    all_there = entry["solved"] == entry["runs"]
    return onset_text(entry) + ("" if all_there else f" ({entry['solved']} of {entry['runs']})")


def terminal(entries: Sequence[dict[str, Any]]) -> str:
    """The table in aligned columns, for a terminal."""
    lines = []
    for setting in dict.fromkeys(entry["setting"] for entry in entries):
        table = [HEAD, *(cells(entry) for entry in entries if entry["setting"] == setting)]
        widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
        lines += [setting] if setting else []
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
        lines.append("")
    return "\n".join(lines)


def latex(entries: Sequence[dict[str, Any]]) -> str:
    """The table as a `booktabs` table."""
    import pandas as pd

    table = pd.DataFrame([[entry["setting"], *cells(entry)] for entry in entries], columns=["setting", *HEAD])
    return table.to_latex(index=False, escape=True)


def write(data: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Write NAME.json, .md, .tex, .parquet and, if matplotlib is installed, .png. Returns the summary."""
    import pandas as pd

    name, rows = data["grid"], data["rows"]
    entries = write_pages(data, folder)
    flat = [
        {key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in row.items()} for row in rows
    ]
    with replacing(folder / f"{name}.parquet") as new:
        pd.DataFrame(flat).to_parquet(new)
    draw(data, folder / f"{name}.png")
    return entries


def page_of(data: dict[str, Any]) -> str | None:
    """The page of a paired or replicated design; `None` for a grid that is tuned once."""
    if not any(row["stage"] != "tuning" for row in data["rows"]):
        return None
    return paired_page(data) if data.get("paired") else replicated_page(data) if data.get("replicates") else None


def write_pages(data: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Write NAME.json, .md and .tex from the rows of an existing comparison. Returns the summary."""
    entries = summary(data["rows"], data["reference"])
    special = page_of(data)
    write_text(folder / f"{data['grid']}.json", json.dumps(data, indent=1) + "\n")
    write_text(folder / f"{data['grid']}.md", special or page(data, entries))
    if special is None:
        write_text(folder / f"{data['grid']}.tex", latex(entries))
    return entries


def page(data: dict[str, Any], entries: Sequence[dict[str, Any]]) -> str:
    """The page of a grid: the question, the rules, and the table."""
    rows = data["rows"]
    judged = [row for row in rows if row["stage"] == "judged"]
    solved, censored, failed = (sum(row["status"] == status for row in judged) for status in ("solved", "censored", "failed"))
    machine = data["environment"]
    lines = [
        f"# {data['title']}",
        "",
        *([data["question"].strip(), ""] if data["question"] else []),
        f"Made by `{data['command']}` from {data['grid']}.json, which has every run.",
        f"{len(judged)} judged runs: {solved} solved, {censored} ended before they were (they stay in the medians as *later "
        f"than that*), {failed} failed (and count as never). {data['missing']} runs of the grid were not made.",
        "",
        "*Onset*: the first evaluation from which held-out accuracy stays above 90 %, of a run that was then "
        f"{data['solved_evaluations']} evaluations in a row at {data['solved_at']:.0%} or above, where it ended. Medians are "
        "Kaplan and Meier's. *Speed-up*: the median onset of "
        f"*{data['reference']}* divided by the arm's (above 1, the arm is earlier), with a bootstrap interval over seeds; "
        "where one of the two did not get there by the end, a bound. *Seconds*: of training until the onset, without "
        "evaluations, on one CPU core (CPU time) or on an accelerator (wall-clock)"
        + ("; runs that shared their steps have none of their own." if any("together" in row for row in rows) else "."),
    ]
    if data["tuning"]:
        lines += ["", tuning_text(data), *repeated_text(rows, data["reference"])]
    made_at = ", ".join(sorted({str(row.get("revision")) for row in rows})) or machine["revision"]
    device = made_on(machine)  # for runs without a record of their machine
    where = "; ".join(sorted({str(row.get("made_on") or device) for row in rows})) or device
    lines += ["", f"Runs made on {where}, at revision {made_at}."]
    lines += ["", "Median onset in epochs:", "", overview(entries)]
    if data["tuning"] and len({entry["setting"] for entry in entries}) > 1:
        lines += [*over_all_text(data), over_all(entries, rows, data["reference"])]
    if data.get("published"):
        lines += beside_published(data, entries)
    return "\n".join([*lines, markdown(entries)])


def tuning_text(data: dict[str, Any]) -> str:
    """The budget of every arm, and the ranges, as text."""
    tuning = data["tuning"]
    text = f"Tuning: {tuning['trials']} trials for every arm"
    drawn = f", seed {tuning['sampler_seed']}" if tuning.get("sampler_seed") else ""
    text += f" ({tuning['sampler']}{drawn})" if "sampler" in tuning else ""
    text += f", each on seeds {list(tuning['seeds'])}, which are not judged; "
    if "sampler" in tuning:
        text += f"the first of them, of every other arm, are at what {data['reference']} is tuned to; "
    if tuning.get("finalist_seeds"):
        text += f"the best {tuning['finalists']} are run on seeds {list(tuning['finalist_seeds'])}, too, and the best of these "
    else:
        text += "the best "
    text += f"by median onset (then by held-out accuracy) is judged on seeds {data['seeds']}."
    if "common" in tuning:
        text += " Ranges: " + ", ".join(f"{name} {range_text(choice)}" for name, choice in tuning["common"].items())
        own = [
            f"{arm}: " + ", ".join(f"{name} {range_text(choice)}" for name, choice in ranges.items())
            for arm, ranges in tuning["own"].items()
        ]
        text += "".join(f"; {one}" for one in own) + "."
    return text


def draw(data: dict[str, Any], file: Path) -> None:
    """Plot the share of runs without an onset over epochs: one panel per setting, one line per arm.

    If every arm has a single run, plot its onsets over the settings. An onset beyond the end is an open marker at the end.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    judged = [row for row in data["rows"] if row["stage"] in ("judged", "paired")]
    settings = list(dict.fromkeys(row["setting"] for row in judged))
    if not settings:
        return
    single = len(judged) == len({(row["setting"], row["arm"]) for row in judged})
    figure = Figure(figsize=(7, 4.5) if single else (7, 3.2 * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1 if single else len(settings), 1, squeeze=False)[:, 0]
    if single:
        _draw_onsets(panels[0], judged, settings)
    else:
        for panel, setting in zip(panels, settings, strict=True):
            _draw_survival(panel, [row for row in judged if row["setting"] == setting])
            panel.set_title(short(setting), fontsize="medium")
    for panel in panels:
        panel.legend(fontsize="x-small", ncols=2)
    with replacing(file) as new:
        figure.savefig(new, dpi=110, format="png")


def _style(i: int) -> dict[str, Any]:
    return {"lw": 1.3, "color": f"C{i % 10}", "ls": ("-", "--", ":")[i // 10 % 3]}


def _draw_survival(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogFormatter

    arms = dict.fromkeys(row["arm"] for row in rows)
    curves = {arm: survival(times_of([row for row in rows if row["arm"] == arm], horizon=horizon_of(rows))) for arm in arms}
    start = 0.8 * min((x[0] for x, _ in curves.values() if x and x[0] > 0), default=1.0)
    for i, (arm, (x, y)) in enumerate(curves.items()):
        panel.step([start, *x], [1.0, *y], where="post", label=arm, **_style(i))
    panel.set(xlabel="epoch", ylabel="not yet generalised", xscale="log", ylim=(-0.02, 1.02))
    panel.xaxis.set_major_formatter(LogFormatter())  # plain numbers instead of powers
    panel.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.4)))


def _draw_onsets(panel: Any, rows: Sequence[dict[str, Any]], settings: Sequence[str]) -> None:
    for i, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        found = [
            (settings.index(row["setting"]), times_of([row], horizon=horizon_of(rows))[0]) for row in rows if row["arm"] == arm
        ]
        panel.plot([x for x, _ in found], [time.value for _, time in found], label=arm, **_style(i))
        for x, time in found:
            panel.plot(x, time.value, "o", color=f"C{i % 10}", mfc="white" if time.censored else None, ms=5)
    panel.set_xticks(range(len(settings)), [short(setting) for setting in settings], rotation=20, ha="right", fontsize="small")
    panel.set(yscale="log", ylabel="onset, epochs (open: later than that)")
