"""What the pages say of grids in which nothing is tuned is in the data."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from committed import COMPARISONS, read
from pages import said

from hf_radial.comparison import sizes
from hf_radial.comparison.paired import compare_paired, pairs_of, ratio_of_means, where_both
from hf_radial.comparison.paired_page import horizons_of, references_of, shares, shares_of
from recipes import one_default, which_length

RESULTS = COMPARISONS.parent


def against_norm(rows, arm="initial radius"):
    return compare_paired(pairs_of(rows, arm, "LayerNorm"), horizons_of(rows))


def in_words(found, digits=2):
    return f"{found.ratio:.2f} times ({found.low:.{digits}f} to {found.high:.{digits}f})"


@pytest.fixture(scope="module")
def paired():
    return read("paired")[0]


@pytest.fixture(scope="module")
def rows(paired):
    return paired["rows"]


@pytest.fixture(scope="module")
def entries(paired, rows):
    """The entry of each arm over all settings."""
    return {entry["arm"]: entry for entry in shares_of(rows, references_of(paired), None)}


@pytest.fixture(scope="module")
def solved(entries):
    return {arm: entry["solved"] for arm, entry in entries.items()}


@pytest.fixture(scope="module")
def first_and_new(paired, rows):
    """The first 16 draws of each task, and those that ran after their answers were known."""
    new = paired["paired"]["first_seed"] + 16
    return [row for row in rows if row["seed"] < new], [row for row in rows if row["seed"] >= new]


def test_with_nothing_tuned_against_adamw(paired, rows, entries, solved):
    assert {entry["runs"] for entry in entries.values()} == {4 * paired["paired"]["draws"]} == {400}
    draws: dict[tuple[str, int], list[bool]] = {}
    for row in rows:
        draws.setdefault((row["setting"], row["seed"]), []).append(row["status"] == "solved")
    anyone = sum(map(any, draws.values()))
    assert said(f"Some arm gets there at {anyone} of these 400 random settings, AdamW at {solved['AdamW']}.")
    found = entries["initial radius"]["against"]["AdamW"]
    assert found.low > 1 and solved["initial radius"] >= solved["AdamW"]  # what was stated to be a yes
    assert said(f"*yes*: the initial radius is {found.ratio:.1f} times as early ({found.low:.1f} to {found.high:.1f}).")
    there = f"It gets there at {solved['initial radius']} draws of 400, AdamW at {solved['AdamW']}"
    assert said(f"{there}, and it is the later one at {found.later}. The interval lies above 1 on each task.")
    settings = [shares_of(rows, ["AdamW"], setting) for setting in horizons_of(rows)]
    alone = [entry["against"]["AdamW"] for one in settings for entry in one if entry["arm"] == "initial radius"]
    assert len(alone) == 4 and all(one.low > 1 for one in alone)
    paper = entries["paper's radius"]["against"]
    told = [f"{one.ratio:.1f} times against {arm} ({one.low:.1f} to {one.high:.1f})" for arm, one in paper.items()]
    assert said(", ".join(told)) and paper["AdamW"].low > 1
    assert said("With nothing tuned both are, and LayerNorm gets there more")
    counts = [solved[arm] for arm in ("initial radius", "LayerNorm", "AdamW")]
    assert said("gets there at {} of 400 random settings, LayerNorm at {}, AdamW at {}.".format(*counts))  # README
    assert said("gets there at {1} of 400 random settings, the penalty at {0}, [AdamW at {2}]".format(*counts))  # what to set


def test_with_nothing_tuned_against_layer_norm(rows, entries, solved, first_and_new):
    first, new = first_and_new
    found = entries["initial radius"]["against"]["LayerNorm"]
    assert found.low < 1 < found.high < 1.001  # level, as it was stated, and just so
    assert said(f"the rule is at its edge: {in_words(found, 3)}, just *level*.")
    assert against_norm(new).high < 1 and said(f"is later, {in_words(against_norm(new))}; in the first 16")
    assert against_norm(first).low < 1 < against_norm(first).high and said("in the first 16 the two were level.")
    assert said(f"more often: at {solved['LayerNorm']} draws, the initial radius at {solved['initial radius']}.")
    pairs, horizons = pairs_of(rows, "initial radius", "LayerNorm"), horizons_of(rows)
    both = compare_paired(where_both(pairs, horizons), horizons)
    assert both.low < 1 < both.high and said(f"the ratio is {both.ratio:.2f} ({both.low:.2f} to {both.high:.2f}).")
    ratio, low, high = ratio_of_means(pairs, horizons)
    assert high < 1 and said(f"the initial radius is {ratio:.2f} times as early ({low:.2f} to {high:.2f}) by mean times.")
    found = entries["LayerNorm, last layer"]["against"]["LayerNorm"]
    assert found.low < 1 < found.high < 1.001
    assert said(f"edge: {found.ratio:.2f} times as early as LayerNorm of all layers ({found.low:.3f} to {found.high:.3f}), and")
    found = against_norm(new, "LayerNorm, last layer")
    assert found.high < 1 and said(f"and {in_words(found)} in the new draws.")
    assert said(f"It gets there at {solved['LayerNorm, last layer']} draws.")


def test_with_nothing_tuned_by_learning_rate(paired, rows, solved):
    middle = math.sqrt(math.prod(paired["paired"]["common"]["learning_rate"]["log"]))
    below = [row for row in rows if row["drawn"]["learning_rate"] <= middle]
    above = [row for row in rows if row["drawn"]["learning_rate"] > middle]
    (low, few), (high, many) = (
        (Counter(row["arm"] for row in half if row["status"] == "solved"), len(half) // len(solved)) for half in (below, above)
    )
    text = f"Below the middle of the range ({middle:.4f}, on a log scale) it gets there at {low['LayerNorm']} draws of {few}"
    assert said(f"{text} and the initial radius at {low['initial radius']}.")
    text = f"Above it they are at {high['LayerNorm']} and {high['initial radius']} of {many}, and the initial radius is"
    found = against_norm(above)
    assert said(f"{text} {found.ratio:.2f} times as early ({found.low:.2f} to {found.high:.2f}). This split")
    assert found.low > 1


def test_rivals_of_2026():
    data, _ = read("rivals_2026")
    entries = {e["arm"]: e for e in shares(data["rows"], references_of(data)) if e["setting"] is None}
    alone = [arm for arm in entries if not arm.endswith("+ radius") and arm not in ("AdamW", "initial radius", "LayerNorm")]

    def answer(arm, reference):  # as the grid's question states it
        found = entries[arm]["against"][reference]
        better = found.low > 1 and entries[arm]["solved"] >= entries[reference]["solved"]
        return "better" if better else "worse" if found.high < 1 else ""

    assert [arm for arm in alone if answer(arm, "AdamW") == "better"] == ["EGD"] and said("Alone, one rival works: EGD")
    *harm, last = (arm for arm in alone if answer(arm, "AdamW") == "worse")
    assert said(f"By the rule these harm: {', '.join(harm)} and {last}. The others are undecided.")
    against = {arm: answer(arm, "initial radius") for arm in [*alone, "LayerNorm"]}
    assert "better" not in against.values() and said("No rival alone is better than the initial radius")
    assert len([arm for arm in against if against[arm] == "worse"]) == 12 and said("Twelve are worse")
    assert [arm for arm in against if not against[arm]] == ["EGD", "column normalisation", "LayerNorm"]
    added = [arm for arm in entries if arm.endswith("+ radius") and answer(arm, "initial radius") == "better"]
    found = [entries[arm]["against"]["initial radius"] for arm in added]
    told = [f"{one.ratio:.1f} times, {one.low:.1f} to {one.high:.1f}" for one in found]
    names = [f"{arm.removesuffix(' + radius')} ({text})" for arm, text in zip(added, told, strict=True)]
    assert said(f"Added to the radius, three are better than the radius alone: {names[0]}, {names[1]} and {names[2]}.")
    solved = {entries[arm]["solved"] for arm in added[:2]}
    assert solved == {14} and said(f"14 of 24 draws are solved; with the radius alone, {entries['initial radius']['solved']}.")


def test_which_length():
    rows = read("length")[0]["rows"]
    answers = [which_length.answers(own) for own in which_length.by_setting(rows).values()]
    assert len(answers) == 3 and "no run got there" in answers[1]["Which layer?"]
    for one in (answers[0], answers[2]):
        assert one["Which layer?"].startswith("the last carries it") and one["A ceiling?"].startswith("yes")
        assert one["The scale of the logits?"].startswith("undecided")
    assert said("the length of the last hidden layer carries the effect, and a ceiling on it is enough")
    for own in list(which_length.by_setting(rows).values())[::2]:  # "matters little from a quarter to twice the initial radius"
        times = which_length.mean_times(own)
        near = [times[which_length.Held("last", "two-sided", radius, 1.0)] for radius in (0.25, 0.5, 1.0, 2.0)]
        assert max(near) < 1.15 * min(near)
    assert (RESULTS / "which_length.md").read_text() == which_length.page(read("length")[0])


def test_one_default():
    rows = read("default")[0]["rows"]
    tasks = [[row for row in rows if row["setting"] == setting] for setting in dict.fromkeys(row["setting"] for row in rows)]
    for own in tasks:
        solved = Counter(row["arm"] for row in own if row["status"] == "solved")
        assert solved["initial radius"] > solved["AdamW"] and len(own) == 48
        entry = next(entry for entry in shares(own, ["AdamW"]) if entry["arm"] == "initial radius")
        assert entry["against"]["AdamW"].low > 1
    assert said("The penalty gets there at more combinations on every task, and earlier.")
    folder = RESULTS / "addition_nanogpt_cpu" / "rows"
    additions = [json.loads(file.read_text()) for file in folder.glob("0.4M_*.json")]
    by_seed = sizes.ratios(additions, "0.4M", "initial radius", "no penalty")
    assert (
        by_seed
        and all(ratio < 1 for ratio, _ in by_seed.values())
        and said("is later than no penalty on each seed that was run")
    )
    wider = [len(one_default.rates(own, "initial radius")) > len(one_default.rates(own, "AdamW")) for own in tasks]
    assert wider.count(True) == 1 and said("is wider on one task of four")
    assert [one_default.answer(own) for own in tasks] == ["yes" if one else "undecided" for one in wider]
