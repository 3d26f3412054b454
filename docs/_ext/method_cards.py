"""A card for every intervention, made when the site is built: docs/methods/NAME.md.

The words are those of the file that holds the intervention, the options those of its dataclass, and the measured results come
from the committed comparisons. Nothing of a card is typed here.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from hf_radial.comparison.pooled import pooled
from hf_radial.comparison.table import onset_cell, short, summary
from hf_radial.comparison.times import number
from hf_radial.interventions.options import example, explain, options_of
from recipes.tables import RESULTS, comparison, intervention_classes

NOT_MEASURED = "It is in no committed comparison by itself: **not yet measured**."
MISSING = "See the reference."
METHODS = Path(__file__).resolve().parents[1] / "methods"
PART = re.compile(r"^(Method|Source|Use|Saved model): ", re.M)
TITLES = {"Method": "What it does", "Use": "How to use it", "Saved model": "What the saved model needs", "Source": "Source"}


def parts_of(document: str) -> dict[str, str]:
    """The first line and the four parts of an intervention's file."""
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
    for file in sorted((RESULTS / "compare").glob("*.json")):
        link = f"[{file.stem}](../../recipes/results/compare/{file.stem}.md)"
        data, entries = _read(file.stem)
        if not (arms := arms_of(data, name)):
            continue
        if not entries:
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
def _read(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A comparison, and its entries if its arms were tuned."""
    data = comparison(name)
    return data, summary(data["rows"], data["reference"]) if data.get("tuning") and not data.get("paired") else []


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def card(name: str, kind: Any) -> str:
    """The card of one intervention."""
    parts = parts_of(sys.modules[kind.__module__].__doc__ or "")
    title, _, sentence = parts["head"].partition(": ")
    lines = [f"# {title}: `{name}`", "", _sentence(sentence or title), ""]
    for part in ("Method", "Use"):
        lines += [f"## {TITLES[part]}", "", _sentence(parts.get(part, MISSING)), ""]
    lines += ["```python", "from hf_radial.interventions import add_interventions", ""]
    lines += [f'add_interventions(trainer, ["{example(kind)}"])  # after the trainer is made, before train()', "```", ""]
    lines += ["In a recipe of this repository:", "", f"    python recipes/modular.py --intervention {example(kind)}", ""]
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


def make(app: Sphinx) -> None:
    for name, kind in intervention_classes().items():
        file, text = METHODS / f"{name}.md", card(name, kind) + "\n"
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
