"""Does the penalty shorten 3-digit addition, the paper's headline task, and does that grow with the model?

    python recipes/addition_size.py                                           # all runs that have no row yet, cheapest first
    python recipes/addition_size.py --sizes 10.6M --arms "no penalty" paper   # some of them
    python recipes/addition_size.py --report                                  # the page from the rows that are there
    python recipes/addition_size.py --again --sizes 10.6M --arms paper --seeds 0   # a run anew, beside its committed row
    python recipes/addition_size.py --preset addition_nanogpt                 # nanoGPT's own set-up, three seeds: for a GPU

Each run is one of recipes/addition.py. It goes on from its last checkpoint if it was killed (checkpoints stay in --runs).
When it ends, it writes a row, a file of its own in recipes/results/PRESET/rows. The page, the figure and the Parquet table are
then rewritten from all rows. `--report` also writes rows of runs that are under way. These are censored at their last
checkpoint, and replaced when the run goes on. Options that are not listed by `--help` go to recipes/addition.py, such as
`--max_steps 100`.

The first four points were written down before the judged runs. The last two say what came later.

- *Onset*: the first of three evaluations in a row with at least 99 % exact match on held-out sums. Without one, a run is
  censored at its last evaluation: it is later than that.
- *The phenomenon is there* in a size if every run without a penalty fits its training rows (99 %) while it has less than half
  of the held-out sums. Where it is not, the runs say when a model learns addition, not for how long it had memorised before.
- Whether an arm *helps* or *harms* in a size, and whether that *grows* with it: `hf_radial.comparison.sizes`.
- The paper's factor of 2.3 is not judged by the CPU preset: its step sees 64 sums, the paper's about 70 times as many.
- The onset at other levels (50, 90, 95 %) and the first single evaluation at 99 % are not judged. Their table was added after
  two of the three seeds of 10.6M, its last column after all runs.
- The first judged run (0.4M, no penalty, seed 0) stood at 95 % at its limit of 4,000 steps. Then the limit became 8,000, for
  all runs. The first run of 3.2M had 500 rows and did not memorise first. It stands in search.md; 3.2M and 10.6M got 300.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, this folder is on the path, but not the one above it

from hf_radial import RadialArguments  # noqa: E402
from hf_radial.comparison import sizes  # noqa: E402
from hf_radial.comparison.sizes_page import page, search_page  # noqa: E402
from hf_radial.runs.onset import HELD_OUT_METRIC, first_streak, summarise  # noqa: E402
from hf_radial.runs.record import made_on  # noqa: E402
from hf_radial.runs.results import accuracies_in_row, in_file_name, radii_in_row, record_in_row  # noqa: E402
from hf_radial.runs.resume import last_complete_checkpoint  # noqa: E402
from hf_radial.runs.script import run_recipe  # noqa: E402
from hf_radial.runs.start import parse_options  # noqa: E402
from hf_radial.safe_files import write_text  # noqa: E402
from recipes import addition  # noqa: E402

RESULTS = ROOT / "recipes" / "results"
SIZES: dict[str, dict[str, Any]] = {
    "0.4M": {"layers": 2, "heads": 4, "width": 128},
    "3.2M": {"layers": 4, "heads": 4, "width": 256},
    "10.6M": {"layers": 6, "heads": 6, "width": 384},
}
# A larger model memorises first only with fewer rows (search.md). The paper's own preset keeps its own number.
ROWS = {"addition_nanogpt_cpu": {"0.4M": 500, "3.2M": 300, "10.6M": 300}}
NO_PENALTY = "no penalty"
ARMS: dict[str, dict[str, Any]] = {
    NO_PENALTY: {"arms": "none"},
    "paper": {"arms": "paper"},  # 0.01 towards sqrt(d), from step 1
    "initial radius": {"arms": "penalty", "radial_lambda": 0.5, "radial_radius": "initial", "radial_warmup_steps": 0},
    "paper, warm-up": {"arms": "penalty", "radial_lambda": 0.01, "radial_radius": "sqrt_d", "radial_warmup_steps": 300},
}
SEEDS = (0, 1, 2)
PAPER = {("10.6M", NO_PENALTY): 22500, ("10.6M", "paper"): 9800}  # steps that arXiv 2606.32000 reports, on its own set-up


def planned(preset: str) -> list[tuple[str, str, int]]:
    """Size, arm and seed of each run of a preset, cheapest first; the warm-up is for the largest size only, and comes last.

    All arms of one seed come before the next seed: a study that is interrupted has whole comparisons.
    """
    chosen = list(SIZES)[-1:] if preset == "addition_nanogpt" else list(SIZES)
    *arms, last = ARMS
    return [(size, arm, seed) for size in chosen for seed in SEEDS for arm in arms] + [
        (chosen[-1], last, seed) for seed in SEEDS
    ]


@dataclass(frozen=True)
class Study:
    """Where a study's runs and rows are, and what it gives to each of them."""

    preset: str
    runs: Path
    results: Path
    extra: tuple[str, ...] = ()

    def folder(self, size: str, arm: str, seed: int) -> Path:
        return self.runs / f"{size}_{in_file_name(arm)}_seed{seed}"

    def row_file(self, size: str, arm: str, seed: int) -> Path:
        return self.results / "rows" / f"{self.folder(size, arm, seed).name}.json"

    def flags(self, size: str, arm: str, seed: int) -> list[str]:
        """The command line of a run without the precision. Weights, order of the data and rows differ by seed, not by arm."""
        options = {**SIZES[size], **ARMS[arm], "seed": seed, "task_seed": seed, "output_dir": self.folder(size, arm, seed)}
        if self.preset in ROWS:
            options["train_size"] = ROWS[self.preset][size]
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return ["--preset", self.preset, *words, "--disable_tqdm", "true", *self.extra]

    def rows(self) -> list[dict[str, Any]]:
        """The rows that are there, by size, seed and arm."""
        cells = [(size, arm, seed) for size in SIZES for seed in range(100) for arm in ARMS]
        return [json.loads(file.read_text()) for cell in cells if (file := self.row_file(*cell)).is_file()]

    def precision(self, size: str) -> dict[str, Any]:
        """One precision for all runs of a size: that of its rows, or else the faster one on this machine."""
        for row in self.rows():
            if row["size"] == size:
                known: dict[str, Any] = row["precision"]
                return known
        flags = self.flags(size, NO_PENALTY, 0)
        task, args = parse_options((addition.AdditionArguments, RadialArguments), flags, addition.CONFIGS, self.preset)
        return addition.measured_precision(task, args, self.runs / f"precision_{size}")


def run(study: Study, size: str, arm: str, seed: int) -> None:
    """Make one run, or go on with it, and leave its row."""
    precision = study.precision(size)
    print(f"{size}, {arm}, seed {seed}: {precision['precision']}; a step takes {precision['seconds_a_step']} s", flush=True)
    train(study, size, arm, seed, precision)
    write_row(study, size, arm, seed)


def train(study: Study, size: str, arm: str, seed: int, precision: dict[str, Any]) -> None:
    """Train in this precision, or go on with the run that is there."""
    bf16 = str(precision["precision"] == "bfloat16")
    addition.main([*study.flags(size, arm, seed), "--bf16", bf16, "--resume_from_checkpoint", "true"])


def run_again(study: Study, size: str, arm: str, seed: int) -> str:
    """Make a run that has a row anew, in a folder of its own and in the row's precision, and say what both have; in Markdown.

    Runs of the same processor and versions agree to the last digit. Others differ by rounding, and then in their steps.
    """
    row = json.loads(study.row_file(size, arm, seed).read_text())
    anew = replace(study, runs=study.runs / "again", results=study.runs / "again")
    train(anew, size, arm, seed, row["precision"])
    write_row(anew, size, arm, seed, row["precision"])
    made = json.loads(anew.row_file(size, arm, seed).read_text())
    steps = zip(row["curves"]["held_out_exact_match"], made["curves"]["held_out_exact_match"], strict=False)
    same = next((i for i, (a, b) in enumerate(steps) if a != b), None)
    until = made["last_step"] if same is None else made["curves"]["step"][same - 1] if same else 0
    lines = [f"{size}, {arm}, seed {seed}: held-out exact match is the same until step {until:,}", ""]
    lines += ["| | committed | again |", "|---|---|---|"]
    for name in ("fit_step", "held_out_at_fit", "onset", "last_step", "test_exact_match", "last_cpu_seconds"):
        lines.append(f"| {name} | {row[name]} | {made[name]} |")
    lines.append(f"| made on | {made_on(row['run']['environment'])} | {made_on(made['run']['environment'])} |")
    return "\n".join(lines) + "\n"


def write_row(study: Study, size: str, arm: str, seed: int, precision: dict[str, Any] | None = None) -> None:
    """Write what a run left until now as its row; nothing if it has no evaluation yet."""
    record_file = next(study.folder(size, arm, seed).glob("*/run.json"), None)
    if record_file is None:
        return
    folder, record = record_file.parent, json.loads(record_file.read_text())
    ended = (folder / "trainer_state.json").is_file()
    state = folder if ended else last_complete_checkpoint(folder)
    log = json.loads((Path(state) / "trainer_state.json").read_text())["log_history"] if state else []
    if not any(HELD_OUT_METRIC in logs for logs in log):
        return
    results = folder.parent / "results.json"
    test = next(iter(json.loads(results.read_text()).values()))["test"] if results.is_file() else {}
    onset = first_streak(log, HELD_OUT_METRIC, 0.99, 3)
    seconds = {logs["step"]: logs["cpu_seconds"] for logs in log}
    accuracies = accuracies_in_row(log)
    radius_steps, radii = radii_in_row(log, [site["name"] for site in record["radial"]["sites"]])
    row = {
        "size": size,
        "parameters": record["model"]["parameters"],
        "arm": arm,
        "seed": seed,
        "status": ("solved" if onset is not None else "censored") if test else "under way",
        "onset": onset,
        "cpu_seconds": None if onset is None else seconds[onset],
        "last_cpu_seconds": seconds[accuracies["step"][-1]],
        **summarise(log),
        "test_exact_match": test.get("exact_match"),
        "test_problems": test.get("problems"),
        "precision": precision or study.precision(size),
        "curves": {**accuracies, "radius_step": radius_steps, "radius": radii},
        "run": record_in_row(record),
    }
    write_text(study.row_file(size, arm, seed), json.dumps(row, separators=(",", ":")) + "\n")


def report(study: Study) -> None:
    """Page, figure and Parquet table from the rows; `make tables` then brings the table of the documentation up to date."""
    import pandas as pd

    if (search := study.results / "search.json").is_file():
        write_text(search.with_suffix(".md"), search_page(json.loads(search.read_text())))
    rows = study.rows()
    if not rows:
        raise ValueError(f"--results {str(study.results)!r} has no rows; run without --report first")
    flat = [{key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()} for row in rows]
    pd.DataFrame(flat).to_parquet(study.results / f"{study.preset}.parquet")
    write_text(study.results / f"{study.preset}.md", page(rows, study.preset, planned(study.preset), NO_PENALTY, PAPER))
    sizes.draw(rows, NO_PENALTY, study.results / f"{study.preset}.png")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--preset", default="addition_nanogpt_cpu", help="a file of recipes/configs (%(default)s)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="only the planned runs of these")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="only the planned runs of these")
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS), help="the same")
    parser.add_argument("--report", action="store_true", help="no run: rows of what is under way, and the page")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints and logs stay")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows and page go")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; results differ by rounding (%(default)s)")
    parser.add_argument("--again", action="store_true", help="make runs anew that have a row, and print both outcomes")
    options, extra = parser.parse_known_args(argv)
    if any(word.split("=")[0] == "--bf16" for word in extra):
        raise ValueError("--bf16 is measured, and the same in all runs of a size; leave it out")
    torch.set_num_threads(options.threads)
    study = Study(options.preset, options.runs / options.preset, options.results / options.preset, tuple(extra))
    for size, arm, seed in planned(options.preset):
        if size not in options.sizes or arm not in options.arms or seed not in options.seeds:
            continue
        file = study.row_file(size, arm, seed)
        if options.again:
            if not file.is_file():
                raise ValueError(f"--again: there is no row {file}; leave out --again to make the run")
            print(run_again(study, size, arm, seed))
            continue
        if file.is_file() and json.loads(file.read_text())["status"] != "under way":
            continue
        if options.report:
            write_row(study, size, arm, seed)
        else:
            run(study, size, arm, seed)
            report(study)
    if not options.again:
        report(study)


if __name__ == "__main__":
    run_recipe(main)
