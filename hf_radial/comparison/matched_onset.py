"""The paper's three propositions at matched onset: from rows of runs to statements, answers and tables.

A row is a run: model, arm, seed, options, fit, onset, and the numbers measured at its places. recipes/matched_onset.py makes
the rows and states the criteria; in here they are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev
from typing import Any

from hf_radial.comparison.propositions import number

ADAMW, PAPERS, INITIAL = "AdamW", "paper's radius", "initial radius"
PENALTIES = (PAPERS, INITIAL)
PLACES = ("half", "onset", "end")
LEAST_SEEDS = 4
COSINE = 0.9
Rows = list[dict[str, Any]]
Numbers = dict[str, Any]
Margin = Callable[[Numbers, Numbers], float | None]


def without_penalty(arm: str) -> str:
    """The name of the arm with another arm's settings and no penalty."""
    return f"{ADAMW}, settings of {arm}"


# Statements -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """One statement of a proposition, with its margins: one a seed, positive where the proposition is right."""

    proposition: int
    letter: str
    place: str
    site: str
    reference: str
    margins: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Mean and 95 % t interval; `None` with fewer than `LEAST_SEEDS` seeds.

        >>> Statement(3, "a", "end", "", "AdamW", (1.0, 2.0, 3.0)).interval
        >>> [round(x, 2) for x in Statement(3, "a", "end", "", "AdamW", (1.0, 2.0, 3.0, 2.0)).interval]
        [2.0, 0.7, 3.3]
        """
        from scipy import stats

        n = len(self.margins)
        if n < LEAST_SEEDS:
            return None
        mean, half = fmean(self.margins), stats.t.ppf(0.975, n - 1) * stdev(self.margins) / math.sqrt(n)
        return mean, mean - half, mean + half

    @property
    def answer(self) -> str:
        """`"yes"`, `"no"` or `"undecided"`."""
        found = self.interval
        return "undecided" if found is None or found[1] <= 0 <= found[2] else "yes" if found[1] > 0 else "no"


def statements(rows: Rows, arm: str) -> list[Statement]:
    """Every statement about one penalty.

    Args:
        rows: of one model, all arms.
        arm: one of `PENALTIES`.
    """
    found: list[Statement] = []

    def state(proposition: int, letter: str, place: str, site: str, reference: str, margin: Margin) -> None:
        ours, theirs = (numbers_at(rows, name, place, site) for name in (arm, reference))
        margins = [margin(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        known = tuple(value for value in margins if value is not None)
        found.append(Statement(proposition, letter, place, site, reference, known))

    for site, place in product(sites_of(rows), ("half", "onset")):
        state(1, "a", place, site, arm, lambda ours, _: difference(ours.get("prop1_cosine"), COSINE))
        state(1, "b", place, site, arm, lambda x, _: difference(x.get("prop1_cosine"), x.get("prop1_weight_decay_cosine")))
        state(2, "a", place, site, arm, lambda ours, _: log_ratio(1.0, ours.get("radial_energy")))
        for reference in references(rows, arm):
            state(1, "c", place, site, reference, lower("alignment"))
            state(2, "b", place, site, reference, lower("radial_energy"))
    for place, reference in product(("onset", "end"), references(rows, arm)):
        state(3, "a", place, "", reference, lower("hessian_trace"))
        state(3, "b", place, "", reference, lower("normalized_sharpness"))
    return sorted(found, key=lambda one: (one.proposition, one.letter))


def numbers_at(rows: Rows, arm: str, place: str, site: str) -> dict[int, Numbers]:
    """Seed -> what was measured in an arm's runs at a place; of the model as a whole if `site` is empty."""
    own = {row["seed"]: row["places"][place] for row in rows if row["arm"] == arm and row["places"]}
    return {seed: numbers["sites"][site] if site else numbers for seed, numbers in own.items()}


def sites_of(rows: Rows) -> list[str]:
    """The sites of one model; none if no run was measured."""
    return next((list(row["places"]["onset"]["sites"]) for row in rows if row["places"]), [])


def references(rows: Rows, arm: str) -> list[str]:
    """The arms without a penalty that an arm is compared with."""
    there = {row["arm"] for row in rows}
    return [name for name in (ADAMW, without_penalty(arm)) if name in there]


def lower(metric: str) -> Margin:
    """The margin of a metric that should be lower than in the compared run."""
    return lambda ours, theirs: log_ratio(theirs.get(metric), ours.get(metric))


def difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def log_ratio(a: float | None, b: float | None) -> float | None:
    """`log(a / b)`, or `None` where one of them is not known or not positive."""
    return math.log(a / b) if a is not None and b is not None and min(a, b) > 0 else None


def verdict(own: Sequence[Statement]) -> str:
    """The answer to a proposition from its statements, with their numbers."""
    count = {word: sum(one.answer == word for one in own) for word in ("yes", "no", "undecided")}
    half = len(own) / 2
    said = "yes" if count["yes"] > half and not count["no"] else "no" if count["no"] > half else "undecided"
    return f"{said} ({count['yes']} yes, {count['no']} no, {count['undecided']} undecided)"


# Tables ---------------------------------------------------------------------------------------------------------------


def by_model(rows: Rows) -> dict[str, Rows]:
    """Model -> its rows, in the order of the rows."""
    return {model: [row for row in rows if row["model"] == model] for model in dict.fromkeys(row["model"] for row in rows)}


def arms_of(rows: Rows) -> list[str]:
    """The arms of one model: AdamW, then each penalty after the arm with its settings."""
    names = [ADAMW, *(name for arm in PENALTIES for name in (without_penalty(arm), arm))]
    return [name for name in names if any(row["arm"] == name for row in rows)]


def penalties_of(rows: Rows) -> list[str]:
    return [arm for arm in arms_of(rows) if arm in PENALTIES]


def answer_table(rows: Rows) -> str:
    """A row a model and penalty: the answer to each proposition."""
    lines = ["| model | penalty | proposition 1 | proposition 2 | proposition 3 |", "|---|---|---|---|---|"]
    for model, own in by_model(rows).items():
        for arm in penalties_of(own):
            found = statements(own, arm)
            cells = [verdict([one for one in found if one.proposition == which]) for which in (1, 2, 3)]
            lines.append(f"| {model} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def number_table(rows: Rows, places: Sequence[str] = PLACES) -> str:
    """A row a model, arm and place: means over the seeds with an onset; the values of the sites are joined by commas."""
    lines = [
        "| model | arm | place | seeds | epoch | `1 - R/r` | cosine with `W Sigma_x` | cosine with `W` | alignment "
        "| radial energy | task loss | Hessian trace | normalised sharpness |",
        "|" + "---|" * 13,
    ]
    for model, own in by_model(rows).items():
        for arm, place in product(arms_of(own), places):
            at = numbers_at(own, arm, place, "").values()
            cells = [f"{len(at)} of {sum(row['arm'] == arm for row in own)}", mean_text(at, "epoch", fmean)]
            for metric in ("prop1_shrink", "prop1_cosine", "prop1_weight_decay_cosine", "alignment", "radial_energy"):
                mean = geometric if metric in ("alignment", "radial_energy") else fmean
                of_sites = [numbers_at(own, arm, place, site).values() for site in sites_of(own)]
                cells.append(", ".join(mean_text(one, metric, mean) for one in of_sites))
            cells += [mean_text(at, metric, geometric) for metric in ("loss", "hessian_trace", "normalized_sharpness")]
            lines.append(f"| {model} | {arm} | {place} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean_text(at: Any, metric: str, mean: Callable[[list[float]], float | None]) -> str:
    values = [one[metric] for one in at if one.get(metric) is not None]
    return number(mean(values) if values else None)


def geometric(values: list[float]) -> float | None:
    """The geometric mean; `None` if a value is not positive.

    >>> geometric([1.0, 4.0]), geometric([0.0, 4.0])
    (2.0, None)
    """
    return math.exp(fmean(map(math.log, values))) if min(values) > 0 else None


def run_table(rows: Rows) -> str:
    """A row a model and arm: its options, and fit and onset of each seed."""
    lines = ["| model | arm | options | fit, by seed | onset, by seed |", "|---|---|---|---|---|"]
    names = ("learning_rate", "weight_decay", "radial_lambda", "interventions")
    for model, own in by_model(rows).items():
        for arm in arms_of(own):
            runs = [row for row in own if row["arm"] == arm]
            options = ", ".join(f"{name} {runs[0]['options'][name]}" for name in names if name in runs[0]["options"])
            fits = ", ".join(number(row["fit"]) for row in runs)
            onsets = ", ".join(number(row["onset"]) if row["status"] == "solved" else f"> {row['last']:g}" for row in runs)
            lines.append(f"| {model} | {arm} | {options} | {fits} | {onsets} |")
    return "\n".join(lines) + "\n"


def statement_table(rows: Rows) -> str:
    """A row a statement."""
    heads = ("model", "penalty", "statement", "place", "site", "compared with", "margin", "95 %", "seeds with it", "answer")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for model, own in by_model(rows).items():
        for arm in penalties_of(own):
            for one in statements(own, arm):
                mean, low, high = one.interval or (None, None, None)
                right = f"{sum(margin > 0 for margin in one.margins)} of {len(one.margins)}"
                compared = "–" if one.reference == arm else one.reference
                cells = [f"{one.proposition}{one.letter}", one.place, one.site or "–", compared, number(mean)]
                cells += [f"{number(low)} to {number(high)}", right, one.answer]
                lines.append(f"| {model} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(data: dict[str, Any], title: str, criteria: str) -> str:
    """The page of the study."""
    rows: Rows = data["rows"]
    sites = "; ".join(f"{model}: {', '.join(sites_of(own)) or 'none measured'}" for model, own in by_model(rows).items())
    missing = [f"{data['missing']} runs are not made yet.", ""] * bool(data["missing"])
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Made by `{data['command']}`; every number is in the .json beside this page.",
            "",
            *missing,
            criteria.strip(),
            "",
            "## Answers",
            "",
            answer_table(rows),
            "## Runs",
            "",
            "In epochs. *Onset*: `> N` was not reached by epoch N, where the run ended. *Fit*: – was not reached.",
            "",
            run_table(rows),
            "## Numbers at each place",
            "",
            "Means over the seeds with an onset; of alignment, radial energy, loss, trace and sharpness the geometric mean.",
            f"Several values in a cell are those of the sites. {sites}.",
            "",
            number_table(rows),
            "## Statements",
            "",
            "*Margin*: a difference of cosines (1a, 1b), or the logarithm of a ratio. Positive: the proposition is right.",
            "",
            statement_table(rows),
        ]
    )
