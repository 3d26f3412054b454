"""Draws that tunings share: draws of the reference that an arm repeats, and draws that are the same on every task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def draws_of(rows: Sequence[dict[str, Any]], setting: str, arm: str, replicate: int = 0) -> list[str]:
    """The different draws for an arm at a setting, as JSON."""
    keys = (setting, arm, "tuning", replicate)
    return list(
        dict.fromkeys(
            json.dumps(row["drawn"], sort_keys=True)
            for row in rows
            if (row["setting"], row["arm"], row["stage"], row.get("replicate", 0)) == keys
        )
    )


def repeated(rows: Sequence[dict[str, Any]], arm: str, reference: str) -> list[tuple[str, int, int]]:
    """For each setting: its name, how many of the arm's draws the reference also had, and how many draws the arm had."""
    found = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        ours, theirs = draws_of(rows, setting, arm), draws_of(rows, setting, reference)
        found.append((setting, len(set(ours) & set(theirs)), len(ours)))
    return found


def on_every_task(rows: Sequence[dict[str, Any]], arm: str) -> int:
    """How many draws of an arm occur at every setting."""
    settings = dict.fromkeys(row["setting"] for row in rows)
    return len(set.intersection(*(set(draws_of(rows, setting, arm)) for setting in settings)))


def repeated_text(rows: Sequence[dict[str, Any]], reference: str) -> list[str]:
    """Both counts as lines of a page. Empty if no draw was repeated."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if draws_of(rows, settings[0], arm)]
    lines = []
    for arm in arms:
        found = repeated(rows, arm, reference)
        if arm != reference and set(_names(rows, arm)) == set(_names(rows, reference)) and any(both for _, both, _ in found):
            counts = sorted(both for _, both, _ in found)
            low, high = counts[0], counts[-1]
            share = f"{low}" if low == high else f"{low} to {high}"
            lines.append(f"- Of the {found[0][2]} draws of *{arm}* at a setting, {share} repeat a draw of *{reference}*.")
    if len(settings) > 1:
        same = {arm: on_every_task(rows, arm) for arm in arms}
        if any(same.values()):
            told = ", ".join(f"{arm} {count}" for arm, count in same.items())
            lines.append(f"- Draws that are the same at every setting, so that tunings are not independent: {told}.")
    return ["", *lines] if lines else []


def _names(rows: Sequence[dict[str, Any]], arm: str) -> list[str]:
    return next((list(row["drawn"]) for row in rows if row["arm"] == arm and row["stage"] == "tuning"), [])
