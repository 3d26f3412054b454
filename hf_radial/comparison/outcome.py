"""The files that a run of a comparison leaves in its folder: a result or a failure. They tell which runs are not done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_radial.safe_files import write_text

RUN_FILE, RESULT_FILE, FAILED_FILE = "run.json", "result.json", "failed.json"
ATTEMPTS = 2  # after this number of failures a run counts as failed

Runs = list[tuple[Path, dict[str, Any]]]  # folders, and the options of the runs in them


def outcome(folder: Path) -> dict[str, Any] | None:
    """The result or the final failure of a run; `None` if it must be made or repeated."""
    result, failure = read_json(folder / RESULT_FILE), read_json(folder / FAILED_FILE)
    if result is None and failure is not None and failure["attempts"] >= ATTEMPTS:
        return failure
    return result


def undone(runs: Runs) -> Runs:
    return [(folder, options) for folder, options in runs if outcome(folder) is None]


def note_failure(folder: Path, message: str, details: str) -> dict[str, Any]:
    before = read_json(folder / FAILED_FILE) or {"attempts": 0}
    failure = {"status": "failed", "failure": message, "attempts": 1 + before["attempts"], "traceback": details}
    write_json(folder / FAILED_FILE, failure)
    return failure


def read_json(file: Path) -> dict[str, Any] | None:
    """The content of a file. `None` if it does not exist, or another process deletes it now because it has repeated the run."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    except FileNotFoundError:
        return None


def write_json(file: Path, value: Any) -> None:
    """Write a file in one step. A process that is killed while it writes leaves no file that looks complete."""
    write_text(file, json.dumps(value, indent=1, default=str) + "\n")
