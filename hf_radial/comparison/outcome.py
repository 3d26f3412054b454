"""What a run of a comparison leaves in its folder: a result or a failure, and which runs are still to be made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RUN_FILE, RESULT_FILE, FAILED_FILE = "run.json", "result.json", "failed.json"
ATTEMPTS = 2  # a run that failed so often has failed

Runs = list[tuple[Path, dict[str, Any]]]  # folders, and the options of the runs in them


def outcome(folder: Path) -> dict[str, Any] | None:
    """What became of a run; `None` if it is to be made, or made again."""
    if (folder / RESULT_FILE).is_file():
        result: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text())
        return result
    if (folder / FAILED_FILE).is_file():
        failure: dict[str, Any] = json.loads((folder / FAILED_FILE).read_text())
        return failure if failure["attempts"] >= ATTEMPTS else None
    return None


def undone(runs: Runs) -> Runs:
    return [(folder, options) for folder, options in runs if outcome(folder) is None]


def note_failure(folder: Path, message: str, details: str) -> dict[str, Any]:
    attempts = 1 + (json.loads((folder / FAILED_FILE).read_text())["attempts"] if (folder / FAILED_FILE).is_file() else 0)
    failure = {"status": "failed", "failure": message, "attempts": attempts, "traceback": details}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILED_FILE, failure)
    return failure


def write_json(file: Path, value: Any) -> None:
    """Whole or not at all: whoever is killed while writing leaves nothing that looks done."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=1, default=str) + "\n")
    os.replace(partial, file)
