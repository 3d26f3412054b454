"""The card of an intervention: what it does, its options, what was measured, what a saved model needs, its source.

The words are those of the file that holds the intervention, the options those of its dataclass, and the measured results come
from the committed comparisons. Nothing of a card is typed here. Interventions of other packages have cards, too.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from typing import Any

from hf_radial.comparison.pooled import pooled
from hf_radial.comparison.table import onset_cell, summary
from hf_radial.comparison.times import number, short
from hf_radial.interventions import INTERVENTIONS
from hf_radial.interventions.options import example, explain, options_of
from hf_radial.runs.shipped import comparisons_folder

NOT_MEASURED = "It is in no committed comparison by itself: **not yet measured**."
MISSING = "Its file does not say."
PART = re.compile(r"^(Method|Source|Use|Saved model): ", re.M)
TITLES = {"Method": "What it does", "Use": "How to use it", "Saved model": "What the saved model needs", "Source": "Source"}


def parts_of(document: str) -> dict[str, str]:
    r"""The first line and the four parts of an intervention's file.

    >>> parts_of("Damp: less of all.\n\nMethod: it damps.")
    {'head': 'Damp: less of all.', 'Method': 'it damps.'}
    """
    head, *rest = PART.split(document.strip())
    return {"head": " ".join(head.split()), **{name: text.strip() for name, text in zip(rest[::2], rest[1::2], strict=True)}}


def arms_of(data: dict[str, Any], name: str) -> list[str]:
    """The arms of a comparison that use this intervention and no other."""
    found: dict[str, None] = {}
    for row in data["rows"]:
        used = _interventions(row)
        if len(used) == 1 and used[0].partition(":")[0] == name:
            found[row["arm"]] = None
    return list(found)


def _interventions(row: dict[str, Any]) -> list[str]:
    options = row["options"]
    given = list(options.get("intervention") or options.get("interventions") or [])
    if options.get("radial_lambda", 0) and not any(one.startswith("radial:") for one in given):
        given.append("radial:")
    return given


def measured(name: str) -> list[str]:
    """A table for each tuned comparison in which the intervention ran alone, and links to the others."""
    lines: list[str] = []
    others = []
    for file in sorted(comparisons_folder().glob("*.json")):
        link = f"[{file.stem}](../../recipes/results/compare/{file.stem}.md)"
        data = _data(file.stem)
        if not (arms := arms_of(data, name)):
            continue
        if not (entries := _entries(file.stem)):
            others.append(link)
            continue
        lines += ["", f"From {link}; the reference is *{data['reference']}*:", ""]
        lines += ["| setting | arm | tuned to | median onset, epochs | reference, epochs |", "|---|---|---|---|---|"]
        reference = {entry["setting"]: entry for entry in entries if entry["arm"] == data["reference"]}
        for entry in (entry for entry in entries if entry["arm"] in arms):
            drawn = ", ".join(f"{key} {_number(value)}" for key, value in (entry.get("drawn") or {}).items())
            onsets = [onset_cell(one) for one in (entry, reference[entry["setting"]])]
            lines.append(f"| {' | '.join([short(entry['setting']) or 'all', entry['arm'], drawn or 'not tuned', *onsets])} |")
        lines += ["", *(_over_all(one) for one in pooled(entries) if one["arm"] in arms and one["ratio"] is not None)]
    return [*lines, "", f"Also in {', '.join(others)}."] if others else lines


def _over_all(one: dict[str, Any]) -> str:
    seconds = "" if one["seconds_ratio"] is None else f", in seconds {number(one['seconds_ratio'])}"
    return (
        f"- *{one['arm']}* over all settings: {number(one['ratio'])} times as early as the reference by medians{seconds}; "
        f"earlier in {one['earlier']} pairs of runs and later in {one['later']}."
    )


@cache
def _data(name: str) -> dict[str, Any]:
    """A comparison: its grid, and a row for every run."""
    found: dict[str, Any] = json.loads((comparisons_folder() / f"{name}.json").read_text(encoding="utf-8"))
    return found


@cache
def _entries(name: str) -> list[dict[str, Any]]:
    """The entries of a comparison if its arms were tuned."""
    data = _data(name)
    return summary(data["rows"], data["reference"]) if data.get("tuning") and not data.get("paired") else []


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def card(name: str) -> str:
    """The card of one intervention, in Markdown.

    Raises:
        KeyError: there is none of this name.
        PluginError: its package cannot be imported, or two packages have the name.
    """
    kind = INTERVENTIONS[name]
    parts = parts_of(sys.modules[kind.__module__].__doc__ or kind.__doc__ or "")
    title, _, sentence = parts["head"].partition(": ")
    lines = [f"# {title}: `{name}`", "", _sentence(sentence or title), ""]
    if name not in INTERVENTIONS.ours:
        lines += [f"It is of {INTERVENTIONS.source(name).package}.", ""]
    for part in ("Method", "Use"):
        lines += [f"## {TITLES[part]}", "", _sentence(parts.get(part, MISSING)), ""]
    lines += ["```python", "from hf_radial.interventions import add_interventions", ""]
    lines += [f'add_interventions(trainer, ["{example(kind)}"])  # after the trainer is made, before train()', "```", ""]
    lines += ["In a recipe:", "", f"    hf-radial run modular --intervention {example(kind)}", ""]
    options = options_of(kind)
    lines += ["## Options", ""] if options else ["## Options", "", "It has none.", ""]
    lines += [f"- `{option.name}`: {explain(kind, option)}" for option in options]
    results = measured(name)
    lines += ["", "## Suggested settings, as measured", *(results or ["", NOT_MEASURED]), ""]
    for part in ("Saved model", "Source"):
        lines += [f"## {TITLES[part]}", "", _sentence(parts.get(part, MISSING)), ""]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def list_of_methods() -> str:
    """Name and first sentence of every intervention, with its package if it is not ours; for a terminal."""
    lines = []
    for name, kind in INTERVENTIONS.loaded():
        head = parts_of(sys.modules[kind.__module__].__doc__ or kind.__doc__ or "")["head"]
        package = "" if name in INTERVENTIONS.ours else f" (of {INTERVENTIONS.source(name).package})"
        lines.append(f"{name:20} {head}{package}")
    return "\n".join(lines)
