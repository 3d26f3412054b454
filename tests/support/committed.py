"""The committed comparisons, for tests of what pages say of them."""

import json
from functools import cache
from pathlib import Path

from hf_radial.comparison.table import summary

COMPARISONS = Path(__file__).parents[2] / "recipes" / "results" / "compare"
WORDS = {2: "two", 3: "three", 4: "four"}


@cache
def read(name):
    """The data of a comparison, and its summary."""
    data = json.loads((COMPARISONS / f"{name}.json").read_text())
    return data, summary(data["rows"], data["reference"])


def of(entries, task):
    """The entries of the setting that has these words in it, by arm."""
    found = {entry["arm"]: entry for entry in entries if task in entry["setting"]}
    assert len({entry["setting"] for entry in found.values()}) == 1, task
    return found
