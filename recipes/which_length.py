"""Which length must be held, and is it the scale of the logits? The answers, from the rows of compare_length.

    python recipes/compare.py recipes/configs/compare_length.yaml --jobs 0 --together 8     # the runs
    python recipes/which_length.py                                                          # page and figure from their rows

What counts as an answer stands in the grid file and was written before the runs. Here each criterion is computed for each task.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.comparison.paired import PairedRatio, compare_paired, pairs_of, time_of  # noqa: E402
from hf_radial.comparison.paired_page import horizons_of, ratio_text  # noqa: E402
from hf_radial.comparison.times import number  # noqa: E402
from hf_radial.interventions import interventions  # noqa: E402
from hf_radial.interventions.logit_temperature import LogitTemperature  # noqa: E402
from hf_radial.interventions.radial import Radial  # noqa: E402
from hf_radial.penalty.config import check_radius_choice, multiple_of  # noqa: E402
from hf_radial.report.canvas import new_canvas  # noqa: E402
from hf_radial.safe_files import replacing, write_text  # noqa: E402

RESULTS = ROOT / "recipes" / "results"
WHERE = {"": "both", "hidden.0": "first", "hidden.1": "last"}
SIDES = {"both": "two-sided", "above": "ceiling", "below": "floor"}
QUESTIONS = ("Which layer?", "A ceiling?", "The scale of the logits?")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Held:
    """What an arm holds: at which layers, from which side, at which multiple of the initial radius, at which temperature.

    `radius` is infinite for `sqrt(d)`, and `None` without a penalty.
    """

    where: str
    side: str
    radius: float | None
    temperature: float


def held_by(row: dict[str, Any]) -> Held:
    """What the arm of a run holds, from the run's interventions."""
    where, side, radius, temperature = "none", "none", None, 1.0
    for method in interventions(row["options"]["interventions"]):
        if isinstance(method, Radial):
            factor, base = multiple_of(check_radius_choice(method.radius))
            where, side, radius = WHERE[method.sites], SIDES[method.side], factor if base == "initial" else math.inf
        elif isinstance(method, LogitTemperature):
            temperature = float(method.temperature)
    return Held(where, side, radius, temperature)


def mean_times(rows: Rows) -> dict[Held, float]:
    """The mean onset of each arm of one task, in epochs. A run without an onset counts with the last epoch."""
    times: dict[Held, list[float]] = {}
    for row in rows:
        times.setdefault(held_by(row), []).append(time_of(row))
    return {held: fmean(own) for held, own in times.items()}


def ratio(rows: Rows, arm: Held, reference: Held) -> PairedRatio:
    """The paired ratio of the reference's time by the arm's; above 1 the arm is earlier."""
    names = {held_by(row): row["arm"] for row in rows}
    return compare_paired(pairs_of(rows, names[arm], names[reference]), horizons_of(rows))


def is_level(found: PairedRatio) -> bool:
    return found.low is not None and found.high is not None and found.low <= 1 <= found.high


def is_later(found: PairedRatio) -> bool:
    return found.high is not None and found.high < 1


def spreads(times: dict[Held, float]) -> tuple[float, float]:
    """Of the arms on the last layer: variance of log time within groups of equal radius / temperature, and between their means.

    Groups of one arm tell nothing about the variance within.
    """
    groups: dict[float, list[float]] = {}
    for held, time in times.items():
        if held.radius is not None and held.radius < math.inf and (held.where, held.side) == ("last", "two-sided"):
            groups.setdefault(round(held.radius / held.temperature, 6), []).append(math.log(time))
    several = [own for own in groups.values() if len(own) > 1]
    within = sum(variance(own) * (len(own) - 1) for own in several) / sum(len(own) - 1 for own in several)
    return within, variance(map(fmean, groups.values()))


def answers(rows: Rows) -> dict[str, str]:
    """Each criterion of the grid file for one task, in words with its numbers."""

    def arm(where: str, side: str = "two-sided") -> Held:
        return Held(where, side, 1.0, 1.0)

    if all(row["status"] != "solved" for row in rows):
        return dict.fromkeys(QUESTIONS, "undecided: no run got there, with a penalty or without")
    first, last, both = arm("first"), arm("last"), arm("both")
    last_by_both, first_by_both = ratio(rows, last, both), ratio(rows, first, both)
    carries = is_level(last_by_both) and is_later(first_by_both)
    matter = is_later(last_by_both) and is_later(first_by_both)
    ceiling, floor = (ratio(rows, arm("both", side), both) for side in ("ceiling", "floor"))
    times = mean_times(rows)
    within, between = spreads(times)
    at_one = [t for held, t in times.items() if (held.where, held.side, held.temperature) == ("last", "two-sided", 1.0)]
    matters = max(at_one) / min(at_one)
    return {
        QUESTIONS[0]: ("the last carries it" if carries else "both matter" if matter else "undecided")
        + f": against both, the last alone {ratio_text(last_by_both)[0]}, the first alone {ratio_text(first_by_both)[0]}",
        QUESTIONS[1]: ("yes" if is_level(ceiling) and is_later(floor) else "undecided")
        + f": against two sides, the ceiling {ratio_text(ceiling)[0]}, the floor {ratio_text(floor)[0]}",
        QUESTIONS[2]: ("yes" if within <= between / 4 and matters >= 1.5 else "undecided")
        + f": variance of log time within equal radius / temperature {number(within)}, between {number(between)}; at "
        f"temperature 1 the slowest radius takes {number(matters)} times as long as the fastest",
    }


def table(rows: Rows) -> str:
    """Mean times of one task: a line for each place, side and temperature, a column for each radius."""
    times = mean_times(rows)
    radii = sorted({held.radius for held in times if held.radius is not None})
    lines = [
        "| layers, side, temperature | " + " | ".join("sqrt(d)" if r == math.inf else f"{r:g} x initial" for r in radii) + " |"
    ]
    lines.append("|" + "---|" * (1 + len(radii)))
    for where, side, temperature in dict.fromkeys((h.where, h.side, h.temperature) for h in times if h.radius is not None):
        cells = [number(times.get(Held(where, side, radius, temperature))) for radius in radii]
        lines.append(f"| {where}, {side}, {temperature:g} | {' | '.join(cells)} |")
    none = ", ".join(f"{number(t)} at temperature {held.temperature:g}" for held, t in times.items() if held.radius is None)
    return "\n".join(lines) + f"\n\nWithout a penalty: {none}.\n"


def by_setting(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["setting"], []).append(row)
    return found


def answer_table(rows: Rows) -> str:
    """The answers to each question, a column a task."""
    told = {setting: answers(own) for setting, own in by_setting(rows).items()}
    questions = list(next(iter(told.values())))
    lines = ["| | " + " | ".join(told) + " |", "|" + "---|" * (1 + len(told))]
    lines += [f"| {question} | " + " | ".join(own[question] for own in told.values()) + " |" for question in questions]
    return "\n".join(lines) + "\n"


def draw(rows: Rows, file: Path) -> None:
    """Mean time against radius / temperature for the last layer alone: one line a temperature, one axis a task."""
    tasks = by_setting(rows)
    figure, axes = new_canvas(columns=len(tasks))
    for axis, (setting, own) in zip(list(axes) if len(tasks) > 1 else [axes], tasks.items(), strict=True):
        times = mean_times(own)
        for temperature in sorted({held.temperature for held in times}):
            line = sorted(
                (held.radius / temperature, time)
                for held, time in times.items()
                if held.radius is not None
                and held.radius < math.inf
                and (held.where, held.side, held.temperature) == ("last", "two-sided", temperature)
            )
            axis.plot(*zip(*line, strict=True), "o-", label=f"temperature {temperature:g}")
        axis.set(xscale="log", xlabel="radius / temperature (x initial)", ylabel="mean onset, epochs", title=setting)
        axis.legend(fontsize="small")
    with replacing(file) as new:
        figure.savefig(new, dpi=90, format="png")


def page(data: dict[str, Any]) -> str:
    lines = [
        f"# {data['title']}",
        "",
        data["question"].strip(),
        "",
        "Made by `python recipes/which_length.py` from compare/length.json. Ratios are of paired times with 95 % intervals;",
        "above 1 the named arm is earlier. Mean times are restricted means of the onset, in epochs.",
        "",
        answer_table(data["rows"]),
        "![mean onset by radius / temperature](which_length.png)",
        "",
    ]
    for setting, own in by_setting(data["rows"]).items():
        lines += [f"**{setting}**: mean time, in epochs (runs end at {number(horizons_of(own)[setting])})", "", table(own)]
    return "\n".join(lines)


def main() -> None:
    data = json.loads((RESULTS / "compare" / "length.json").read_text())
    write_text(RESULTS / "which_length.md", page(data))
    draw(data["rows"], RESULTS / "which_length.png")


if __name__ == "__main__":
    main()
