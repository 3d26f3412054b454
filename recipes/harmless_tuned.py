"""Does the penalty towards the initial radius help on text, if each arm has its own learning rate?

    python recipes/harmless_tuned.py --file input.txt --bf16          # all runs that have no row yet; four hours on one core
    python recipes/harmless_tuned.py --file input.txt --bf16 --arms "no penalty"     # one arm, beside a process for the other
    python recipes/harmless_tuned.py --report                         # the page from the rows that are there

recipes/harmless.py trains every arm at a learning rate of 1e-3. There, at 10.6M parameters, the initial radius lowers the
held-out loss by 0.11. Perhaps that rate is only too high without the penalty. Here each arm is tuned on seed 0, then both are
compared on seeds that tuned nothing. Each run leaves a row, a file of its own. The runs of recipes/harmless.py count as rows.

What is judged, written down before any of these runs:

- *Tuning*: each arm is run at 1e-3 and at 3e-4. While the best rate is the largest or the smallest of those tried, the next one
  beyond it is tried: a factor of about 3. The strength of the penalty, 0.5, is not tuned.
- *Gain* on a judged seed: the held-out loss without a penalty, minus that of the initial radius, each at its own rate.
- The gain is *real* if it is 0.01 or more on every judged seed, *gone* if it is less on every one, else *undecided*. It is a
  *harm* if it is -0.01 or less on every one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.runs.record import all_made_on, describe_environment
from hf_radial.runs.results import in_file_name
from hf_radial.runs.script import run_recipe
from hf_radial.safe_files import write_text
from recipes import harmless

FOLDER = harmless.RESULTS / "harmless_tuned"
BEFORE = harmless.RESULTS / "harmless_10.6M.json"  # one seed at 1e-3
SIZE, NO_PENALTY, HELD = "10.6M", harmless.NO_PENALTY, "penalty 0.5, initial radius"
ARMS = (NO_PENALTY, HELD)
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FIRST = (1e-3, 3e-4)
TUNED_ON, JUDGED = 0, (1, 2)
ENOUGH = 0.01
ABOUT = ("text", "steps", "bf16")  # the same in all rows
Rows = list[dict[str, Any]]


def loss(rows: Rows, arm: str, rate: float, seed: int) -> float | None:
    """The held-out loss of a run, infinite if it diverged; `None` if it is not there yet."""
    for row in rows:
        if (row["arm"], row["learning_rate"], row["seed"]) == (arm, rate, seed):
            found: float = row["held_out_loss"]
            return found if isfinite(found) else inf
    return None


def tuned(rows: Rows, arm: str) -> tuple[float, bool]:
    """The learning rate at which an arm's loss is least on the seed that tunes it, and whether that is settled.

    While it is not settled, the rate is the one to try next.
    """
    losses = {rate: found for rate in RATES if (found := loss(rows, arm, rate, TUNED_ON)) is not None}
    for rate in FIRST:
        if rate not in losses:
            return rate, False
    best = RATES.index(min(losses, key=losses.__getitem__))
    for beyond in (best - 1, best + 1):
        if 0 <= beyond < len(RATES) and RATES[beyond] not in losses:
            return RATES[beyond], False
    return RATES[best], True


def next_run(rows: Rows, arm: str) -> tuple[float, int] | None:
    """Learning rate and seed of the next run of an arm; `None` if it has all."""
    rate, settled = tuned(rows, arm)
    if not settled:
        return rate, TUNED_ON
    return next(((rate, seed) for seed in JUDGED if loss(rows, arm, rate, seed) is None), None)


def gains(rows: Rows) -> dict[int, float]:
    """By judged seed: how much lower the held-out loss is with the penalty, each arm at its own learning rate."""
    (base, base_settled), (rate, settled) = (tuned(rows, arm) for arm in ARMS)
    found = {}
    for seed in JUDGED if base_settled and settled else ():
        without, with_it = loss(rows, NO_PENALTY, base, seed), loss(rows, HELD, rate, seed)
        if without is not None and with_it is not None:
            found[seed] = without - with_it
    return found


def answer(rows: Rows) -> str:
    """Whether the gain is real. The criterion is at the top of this file."""
    found = gains(rows)
    if len(found) < len(JUDGED):
        return "not yet known"
    if all(gain <= -ENOUGH for gain in found.values()):
        return "a harm"
    if all(gain >= ENOUGH for gain in found.values()):
        return "real"
    return "gone" if all(gain < ENOUGH for gain in found.values()) else "undecided"


def tuning_table(rows: Rows) -> str:
    """A row a learning rate and arm: what it gave on the seed that tunes, and on the judged ones; in Markdown."""
    seeds = (TUNED_ON, *JUDGED)
    lines = [
        f"| arm | learning rate | {' | '.join(f'held-out loss, seed {seed}' for seed in seeds)} | training loss "
        "| effective rank | radius |",
        "|" + "---|" * (5 + len(seeds)),
    ]
    for arm in ARMS:
        best, settled = tuned(rows, arm)
        for rate in RATES:
            own = {row["seed"]: row for row in rows if (row["arm"], row["learning_rate"]) == (arm, rate)}
            if TUNED_ON in own:
                first = own[TUNED_ON]
                cells = [arm, f"**{rate:g}**" if settled and rate == best else f"{rate:g}"]
                cells += [f"{own[seed]['held_out_loss']:.3f}" if seed in own else "" for seed in seeds]
                cells += [f"{first['train_loss']:.3f}", f"{first['effective_rank']:.1f}", f"{first['radius']:.2f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(rows: Rows) -> str:
    """The page of the study, in Markdown."""
    first = rows[0]
    text = first["text"]
    by_seed = "; ".join(f"seed {seed}, {gain:+.3f}" for seed, gain in gains(rows).items()) or "no judged seed yet"
    return "\n".join(
        [
            "# Does the initial radius help on text, each arm at its own learning rate?",
            "",
            f"`python recipes/harmless_tuned.py --file {text['name']}{' --bf16' * first['bf16']}` on {text['characters']:,} "
            f"characters (SHA-256 {text['sha256'][:12]}), {first['steps']:,} steps of {harmless.BATCH} windows of "
            f"{harmless.LENGTH} characters, {first['parameters']:,} parameters. What is judged stands at the top of the "
            f"recipe. Bold: the rate that seed {TUNED_ON} chose. Training loss, effective rank and radius are those of "
            f"seed {TUNED_ON}.",
            "",
            tuning_table(rows),
            f"Gain, each arm at its own rate: {by_seed}. By the rule it is *{answer(rows)}*.",
            "",
            all_made_on(row["environment"] for row in rows),
            "",
        ]
    )


def rows_there(folder: Path, about: dict[str, Any] | None = None) -> Rows:
    """The rows of a folder, and the runs of recipes/harmless.py at its learning rate where they are of the same text and steps.

    Args:
        about: text, steps and precision of the runs that come; by default those of the folder's first row.

    Raises:
        ValueError: a row of the folder is of another text, number of steps or precision.
    """
    rows = [json.loads(file.read_text()) for file in sorted((folder / "rows").glob("*.json"))]
    before = json.loads(BEFORE.read_text())
    about = about or {key: (rows or [before])[0][key] for key in ABOUT}
    for row in rows:
        if other := [key for key in ABOUT if row[key] != about[key]]:
            raise ValueError(f"the rows in {folder / 'rows'} have another {other[0]}; give another --results")
    if all(before[key] == about[key] for key in ABOUT):
        same = {**about, "environment": before["environment"]}
        rows += [
            {"arm": arm, "learning_rate": harmless.LEARNING_RATE, **one, **same} for arm in ARMS for one in before["arms"][arm]
        ]
    return rows


def main(argv: Sequence[str]) -> Path:
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="the text")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="one of them, or both")
    parser.add_argument("--steps", type=int, default=harmless.STEPS, help="of each run (%(default)s)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast: faster on processors with units for it")
    parser.add_argument("--report", action="store_true", help="write the page only")
    parser.add_argument("--results", type=Path, default=FOLDER, help="where rows and page go (%(default)s)")
    options = parser.parse_args(argv)
    if options.steps < 1:
        raise ValueError(f"--steps {options.steps} must be at least 1")
    if not options.report:
        if options.file is None:
            raise ValueError("--file is needed: the text that the models learn; --report needs none")
        torch.set_num_threads(1)
        logging.set_verbosity_error()
        text, name = harmless.read_text(options.file, "")
        about = {"text": harmless.describe_text(text, name), "steps": options.steps, "bf16": options.bf16}
        for arm in options.arms:
            make_runs(options.results, arm, text, about)
    written = page(rows_there(options.results))
    file: Path = options.results.with_suffix(".md")
    write_text(file, written)
    print(written)
    return file


def make_runs(folder: Path, arm: str, text: str, about: dict[str, Any]) -> None:
    """Make the runs of an arm that have no row yet, and write a row after each.

    Args:
        about: text, steps and precision, as in the rows.
    """
    options = harmless.ARMS[arm]
    with tqdm(unit="run", desc=arm, dynamic_ncols=True) as bar:
        while todo := next_run(rows_there(folder, about), arm):
            rate, seed = todo
            made = harmless.run(text, SIZE, options, seed, about["steps"], about["bf16"], rate)
            row = {
                "arm": arm,
                "learning_rate": rate,
                **made,
                **about,
                "options": options,
                "environment": describe_environment(),
            }
            write_text(folder / "rows" / f"{in_file_name(arm)}_{rate:g}_seed{seed}.json", json.dumps(row, indent=1) + "\n")
            bar.set_postfix_str(f"{rate:g}, seed {seed}: {made['held_out_loss']:.3f}")
            bar.update()


if __name__ == "__main__":
    run_recipe(main)
