"""Repeat committed runs, and compare the new outcomes with the committed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from hf_radial.comparison.jobs import Runner, run_all
from hf_radial.comparison.outcome import outcome
from hf_radial.comparison.trials import Cell


def run_again(name: str, results: Path, words: Sequence[str], root: Path, runner: Runner, together: int = 1) -> str:
    """Repeat judged runs of a committed comparison with their committed options. Returns a table of both outcomes.

    Args:
        name: name of the grid.
        results: the folder of the committed comparisons.
        words: select the runs whose "SETTING, ARM, seed N" contains all of these words.
        root: the folder for the new runs.

    Raises:
        ValueError: the comparison does not exist, or none of its judged runs has all of the words.
    """
    file = results / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"--again: there is no {file}; make the comparison first, without --again")
    judged = [row for row in json.loads(file.read_text())["rows"] if row["stage"] == "judged"]
    said = {row["run"]: ", ".join(filter(None, [row["setting"], row["arm"], f"seed {row['seed']}"])) for row in judged}
    rows = [row for row in judged if all(word in said[row["run"]] for word in words)]
    if not rows:
        raise ValueError(
            f"--again {' '.join(words)}: no judged run has all of these words; the first is {said[judged[0]['run']]!r}"
        )
    followed = {row["options"].get("follows") for row in rows}
    cells = [
        Cell(row["setting"], row["arm"], "judged", row["drawn"], row["options"])
        for row in judged
        if row in rows or row["run"] in followed
    ]
    for cell in cells:
        shutil.rmtree(cell.folder(root), ignore_errors=True)
    run_all(cells, root, runner, f"{name} again", together)
    lines = ["| run | committed: onset | held out, at the end | now: onset | held out, at the end |", "|" + "---|" * 5]
    for row in rows:
        now = outcome(root / row["run"]) or {"status": "failed"}
        told = [
            f"{one['onset'] if one['status'] == 'solved' else one['status']} | {one.get('held_out', '–')}" for one in (row, now)
        ]
        lines.append(f"| {said[row['run']]} | {told[0]} | {told[1]} |")
    return "\n".join(lines)
