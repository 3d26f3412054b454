"""Is one strength right everywhere, with nothing tuned? The answer for each task, from the rows of compare_default.

    python recipes/compare.py recipes/configs/compare_default.yaml --jobs 0 --together 8     # the runs
    python recipes/one_default.py                                                            # prints the table

The grid file says what counts as yes and no, and was written before the runs. A *combination* is a learning rate with a warm-up
and a clipping; each has one seed, so an arm's own best combination is partly luck, for both arms alike.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.comparison.paired import compare_paired, pairs_of, time_of  # noqa: E402
from hf_radial.comparison.paired_page import horizons_of, ratio_text  # noqa: E402
from hf_radial.comparison.times import number  # noqa: E402

DATA = ROOT / "recipes" / "results" / "compare" / "default.json"
REFERENCE, ARM = "AdamW", "initial radius"
Rows = list[dict[str, Any]]


def rates(rows: Rows, arm: str) -> list[float]:
    """The learning rates at which an arm got there, at any warm-up and clipping."""
    return sorted({row["drawn"]["learning_rate"] for row in rows if row["arm"] == arm and row["status"] == "solved"})


def best(rows: Rows, arm: str) -> float:
    """The earliest onset of an arm over its combinations, in epochs; the last epoch if it never got there."""
    return min(time_of(row) for row in rows if row["arm"] == arm)


def answer(rows: Rows) -> str:
    """Yes, no or undecided for one task, as the grid file states it."""
    horizons = horizons_of(rows)
    found = compare_paired(pairs_of(rows, ARM, REFERENCE), horizons)
    solved = {arm: sum(row["arm"] == arm and row["status"] == "solved" for row in rows) for arm in (ARM, REFERENCE)}
    step = rows[0]["options"]["evaluate_every"]
    if best(rows, ARM) > best(rows, REFERENCE) + step or solved[ARM] < solved[REFERENCE]:
        return "no"
    wider = len(rates(rows, ARM)) > len(rates(rows, REFERENCE))
    not_later = found.high is not None and found.high >= 1 and best(rows, ARM) <= best(rows, REFERENCE) + step
    return "yes" if wider and not_later else "undecided"


def table(rows: Rows) -> str:
    """A row a task: how many combinations work, at which learning rates, how much earlier, and the answer."""
    lines = [
        f"| task | combinations that work: {REFERENCE} | {ARM} | learning rates that work: {REFERENCE} | {ARM} "
        f"| times as early | best onset: {REFERENCE} | {ARM} | a default? |",
        "|" + "---|" * 9,
    ]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == setting]
        found = compare_paired(pairs_of(own, ARM, REFERENCE), horizons_of(own))
        cells = [setting.partition(", train_fraction")[0]]
        for arm in (REFERENCE, ARM):
            mine = [row for row in own if row["arm"] == arm]
            cells.append(f"{sum(row['status'] == 'solved' for row in mine)} of {len(mine)}")
        cells += [", ".join(f"{rate:g}" for rate in rates(own, arm)) for arm in (REFERENCE, ARM)]
        cells += [ratio_text(found)[0], *(number(best(own, arm)) for arm in (REFERENCE, ARM)), answer(own)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    print(table(json.loads(DATA.read_text())["rows"]))


if __name__ == "__main__":
    main()
