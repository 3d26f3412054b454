"""The range that setup.cfg claims is the range that was run."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import versions

METADATA = configparser.ConfigParser()
METADATA.read(Path(__file__).parents[2] / "setup.cfg")
ROWS = json.loads((versions.RESULTS / "versions.json").read_text())


def passed(name: str) -> set[tuple[int, ...]]:
    """Versions (major and minor) with which every quick test passed."""
    return {versions.numbers(row[name])[:2] for row in ROWS if not row["failed"] and row["passed"] > 100}


def claimed(package: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The lowest version of a requirement, and the first that is refused."""
    requirement = re.search(rf"^{package}>=([\d.]+),<([\d.]+)$", METADATA["options"]["install_requires"], re.MULTILINE)
    assert requirement
    low, high = (versions.numbers(text) for text in requirement.groups())
    return low, high


def test_every_python_that_is_claimed_passed() -> None:
    classifiers = re.findall(r"Python :: (3)\.(\d+)$", METADATA["metadata"]["classifiers"], re.MULTILINE)
    pythons = sorted((int(major), int(minor)) for major, minor in classifiers)
    assert set(pythons) == passed("python")
    assert METADATA["options"]["python_requires"] == f">={'.'.join(map(str, pythons[0]))}"


def test_every_torch_that_is_claimed_passed() -> None:
    low, high = claimed("torch")
    assert {(low[0], minor) for minor in range(low[1], high[1])} == passed("torch")


def test_both_ends_of_transformers_passed() -> None:
    low, high = claimed("transformers")
    assert min(passed("transformers")) == low and max(passed("transformers")) == (high[0], high[1] - 1)


def test_the_table_is_that_of_the_data() -> None:
    assert (versions.RESULTS / "versions.md").read_text() == versions.markdown(ROWS)
