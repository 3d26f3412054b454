"""Which versions of Python, torch and transformers the quick tests passed with; writes recipes/results/versions.json and .md.

    make versions PYTHONS="/path/to/env/bin/python ..."
    make versions PYTHONS="... --failed"  # of a row that there is, only the tests that failed (on a busy machine, say)

Each is the interpreter of an environment with `hf_radial[test]`. The tests run on the checkout beside this file. A row replaces
an earlier one of the same versions. What setup.cfg claims is held against the table by tests/project/test_versions.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "recipes" / "results"
NAMES = ("torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy")
ASK = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
def known(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print(json.dumps({"python": platform.python_version(), **{name: known(name) for name in %r}}))
"""
INTRODUCTION = """
Made by `make versions` from `versions.json`: `make test-quick`, with each row's versions. A test that failed was run again
alone once its cause was mended (`--failed`). What `setup.cfg` claims lies within these rows.
"""


def versions_of(python: str) -> dict[str, Any]:
    return json.loads(subprocess.run([python, "-c", ASK % (NAMES,)], capture_output=True, text=True, check=True).stdout)


def tested(python: str, words: Sequence[str], what: Sequence[str]) -> dict[str, Any]:
    """What became of the quick tests in these files, or with these names, in one environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", "-m", "quick", f"--junitxml={report}", *words, *what]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        cases = list(xml.etree.ElementTree.parse(report).getroot().iter("testcase"))
    failed = [
        f"{str(case.get('classname')).replace('.', '/')}.py::{case.get('name')}"
        for case in cases
        if ended(case, "failure", "error")
    ]
    skipped = sum(ended(case, "skipped") for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def ended(case: xml.etree.ElementTree.Element, *how: str) -> bool:
    return any(case.find(tag) is not None for tag in how)


def quick_files() -> list[str]:
    return sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("tests/**/test_*.py") if "mark.quick" in file.read_text())


def key(row: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Python, torch and transformers, as numbers."""
    return tuple(numbers(row[name]) for name in ("python", "torch", "transformers"))


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split("."))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["# Versions", INTRODUCTION, f"| Python | {' | '.join(NAMES)} | passed | failed | skipped |", "|---" * 10 + "|"]
    for row in rows:
        versions = " | ".join(str(row[name]) for name in ("python", *NAMES))
        lines.append(f"| {versions} | {row['passed']} | {len(row['failed'])} | {row['skipped']} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> int:
    file, failed = RESULTS / "versions.json", False
    options = [word for word in words if word.startswith("-") and word != "--failed"]
    for python in [word for word in words if not word.startswith("-")]:
        row = versions_of(python)
        before = next((other for other in read(file) if key(other) == key(row)), None)
        if "--failed" in words and before is not None:
            again = tested(python, options, before["failed"])
            row = {**before, "passed": before["passed"] + again["passed"], "failed": again["failed"]}
        else:
            row |= tested(python, options, quick_files())
        print(f"Python {row['python']}, torch {row['torch']}: {row['passed']} passed, failed:", *row["failed"])
        rows = sorted([*(other for other in read(file) if key(other) != key(row)), row], key=key)
        file.write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "versions.md").write_text(markdown(rows))
        failed = failed or bool(row["failed"])
    return int(failed)


def read(file: Path) -> list[dict[str, Any]]:
    """The rows by now: others of these may be running, in other environments."""
    return json.loads(file.read_text()) if file.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
