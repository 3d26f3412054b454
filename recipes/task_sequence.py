"""Does holding lengths keep a network able to learn? Tuned rivals through sequences of permuted digits, on one core.

    python recipes/task_sequence.py                             # all stages, but runs that have a row are left out
    python recipes/task_sequence.py --stages tuning judged --arms AdamW "penalty, initial radius" --replicates 0
    python recipes/task_sequence.py --page                      # data, page and figures from the rows

Question, criteria, arms, ranges and budgets are in configs/sequence.yaml. A stage trains its members in stacks of up to 40 and
appends their rows: `published` repeats a published comparison at given settings; `tuning` has the trials of each arm and
replicate; `judged` has new seeds at the best trial of each; `long` has the best arms for more tasks.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from hf_radial.continual.study import STAGES, identity, jobs_of, read_study, run_job
from hf_radial.runs.record import describe_environment
from hf_radial.safe_files import write_text

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "sequence"


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """All rows so far."""
    file = folder / "rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=ROOT / "configs" / "sequence.yaml")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--arms", nargs="+", help="only these arms")
    parser.add_argument("--replicates", nargs="+", type=int, help="only these replicates")
    parser.add_argument("--page", action="store_true", help="only make data, page and figures from the rows")
    args = parser.parse_args()
    study = read_study(args.study)
    if args.page:
        from hf_radial.continual.page import write_page

        write_page(study, rows_in(args.results), args.results)
        return
    torch.set_flush_denormal(True)  # moments of pixels that are always 0 would make steps slow
    args.results.mkdir(parents=True, exist_ok=True)
    write_text(args.results / "environment.json", json.dumps(describe_environment(), indent=1) + "\n")
    replicates = list(range(study.replicates)) if args.replicates is None else args.replicates
    for stage in args.stages:
        for job in jobs_of(study, stage, rows_in(args.results), replicates):
            if args.arms and job.keys[0]["arm"] not in args.arms:
                continue
            rows, found = run_job(study, job)
            with (args.results / "rows.jsonl").open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            if stage != "tuning":
                with (args.results / "matrices.jsonl").open("a") as file:
                    for row, one in zip(rows, found, strict=True):
                        lower = [[round(a, 4) for a in one.accuracy[i, : i + 1].tolist()] for i in range(job.tasks)]
                        known = [[None if a != a else a for a in line] for line in lower]
                        file.write(json.dumps({"run": identity(row), "accuracy": known}) + "\n")
            mean = sum(row["retention"] for row in rows) / len(rows)
            print(
                f"{time.strftime('%H:%M:%S')} {stage} {job.keys[0]['arm']}: {len(rows)} runs of {job.tasks} tasks, mean "
                f"retention {mean:.3f}, {rows[0]['seconds']} s and {rows[0]['cpu_seconds']} CPU s each",
                flush=True,
            )


if __name__ == "__main__":
    main()
