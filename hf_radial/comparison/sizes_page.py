"""The pages of the study of addition by size: what its rows say, and the search for its set-up.

In here: Markdown around the table of `hf_radial.comparison.sizes`. Not in here: numbers, figure, runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hf_radial.comparison import sizes
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, first_streak, summarise
from hf_radial.runs.record import all_made_on
from hf_radial.runs.results import log_of_row

Run = tuple[str, str, int]  # size, arm, seed


def page(rows: sizes.Rows, preset: str, planned: Sequence[Run], reference: str, paper: Mapping[tuple[str, str], int]) -> str:
    """The page of the study, in Markdown.

    Args:
        rows: see `hf_radial.comparison.sizes`; at least one.
        preset: of recipes/addition.py, with which they were made.
        planned: every run of the study.
        reference: the arm without a penalty.
        paper: (size, arm) -> the steps that the paper reports.
    """
    facts, args = rows[0]["run"]["facts"], rows[0]["run"]["training_args"]
    there = list(dict.fromkeys(row["size"] for row in rows))
    first = {size: [r["memorised_first"] is True for r in sizes.of(rows, size, reference)] for size in there}
    under_way = [f"{r['size']}, {r['arm']}, seed {r['seed']}" for r in rows if r["status"] == "under way"]
    made = {(row["size"], row["arm"], row["seed"]) for row in rows}
    missing = Counter((size, arm) for size, arm, seed in planned if (size, arm, seed) not in made)
    seeds = len({seed for _, _, seed in planned})
    steps = {row["size"]: row["precision"]["seconds_a_step"] for row in rows}
    precision = [
        f"{size} in {min(seconds, key=seconds.__getitem__)} (a step: "
        + ", ".join(f"{name} {second:.3f} s" for name, second in seconds.items())
        + ")"
        for size, seconds in steps.items()
    ]
    feed = f"random windows of {facts['window']} characters" if facts["window"] else "a row is an example"
    lines = [
        f"# {facts['digits']}-digit addition by size of the model",
        "",
        f"Made by `python recipes/addition_size.py --preset {preset}` from the files in rows/, one a run. What is judged",
        "stands at the top of the recipe. An entry `> N` was not reached by then. Intervals are bootstraps over seeds: with",
        "three, about their range. CPU seconds are of training steps, without evaluations.",
        "",
        sizes.table(rows, reference, paper),
        *(f"- {size}: {sum(m)} of {len(m)} runs without a penalty memorise first." for size, m in first.items()),
        *(
            f"- {arm}, gain from {there[0]} to {there[-1]}: {sizes.growth(rows, arm, reference, there)}."
            for arm in dict.fromkeys(row["arm"] for row in rows)
            if arm != reference and len(there) > 1 and all(sizes.of(rows, size, arm) for size in (there[0], there[-1]))
        ),
        *([f"- Under way, and counted as not reached: {'; '.join(under_way)}."] if under_way else []),
        *(f"- Not yet run: {size}, {arm}, {count} of {seeds} seeds." for (size, arm), count in missing.items()),
        "",
        "Is it the last percent? The same ratios by seed, with the onset at other levels of held-out exact match. Only",
        "three in a row at 99 % is judged. The recipe says when this table was added.",
        "",
        sizes.levels_table(rows, reference),
        f"Rows of training: {facts['sampling']}, {feed}. Batch {args['per_device_train_batch_size']}, learning "
        f"rate {args['learning_rate']:g} ({args['lr_scheduler_type']}), weight decay {args['weight_decay']:g}, dropout "
        f"{facts['dropout']:g}, at most {args['max_steps']:,} steps, evaluated every {args['eval_steps']:g} on "
        f"{facts['validation_size']:,} held-out sums; {'; '.join(precision)}. "
        f"How that differs from the paper's set-up stands in recipes/configs/{preset}.yaml. "
        f"{all_made_on(row['run']['environment'] for row in rows)}",
        "",
        f"![ratios of onsets, and steps to 99 %, by size]({preset}.png)",
        "",
    ]
    return "\n".join(lines)


def search_page(runs: Sequence[dict[str, Any]]) -> str:
    """The page of the search for a set-up with delayed generalisation. Each entry of search.json is a run."""
    lines = [
        "# In which set-up does the model memorise first?",
        "",
        "Made from search.json, whose entries have each run's command and curves. Other options are the preset's; the first",
        "runs were made with the preset `addition_cpu` and evaluated every 50 steps. Spelling: operands and answer padded with",
        "zeros, the answer reversed, if nothing else is said. *Fit*: the first evaluation with 99 % of the training rows.",
        "*Three at 99 %*: the first of three evaluations in a row with 99 % of the held-out sums. Many runs were ended when",
        "they had told enough.",
        "",
        "| width, layers | arm | rows | seed | batch | weight decay | learning rate | dropout | spelling | fit | held out then "
        "| three at 99 % | end | train, held out |",
        "|" + "---|" * 14,
    ]
    for one in runs:
        log = log_of_row(one["curves"])
        said, onset = summarise(log), first_streak(log, HELD_OUT_METRIC, 0.99, 3)
        other = {"not padded": not one.get("zero_pad", True), "not reversed": not one.get("reverse", True)}
        cells = [f"{one['width']}, {one['layers']}", one.get("arm", "none")]
        cells += [f"{one[name]:g}" for name in ("train_size", "seed", "batch", "weight_decay", "learning_rate", "dropout")]
        cells += [", ".join(name for name, is_so in other.items() if is_so), f"{said['fit_step'] or '–'}"]
        cells += ["–" if said["held_out_at_fit"] is None else f"{said['held_out_at_fit']:.0%}", f"{onset or '–'}"]
        cells += [f"{said['last_step']}", f"{log[-1][TRAIN_METRIC]:.0%}, {said['last_held_out']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
