"""Many ways of training under the same rules: a grid of tasks, models, methods, settings and seeds, run, judged and printed.

    python recipes/compare.py recipes/configs/compare_rivals.yaml --jobs 2             # again to go on where it stopped
    python recipes/compare.py recipes/configs/compare_rivals.yaml --again Muon "seed 0"   # committed cells, then and now
    python recipes/compare.py recipes/configs/compare_rivals.yaml --table              # the tables from what there is
    python recipes/compare.py recipes/configs/compare_rivals.yaml --ray auto             # on a Ray cluster with a shared folder
    python recipes/compare.py recipes/configs/compare_decay.yaml --together 16           # MLPs that can share their steps do
    python recipes/compare.py recipes/configs/compare_decay.yaml --shard 1/4             # in an array of jobs, any scheduler

Each run is made in a folder of its own, named by a hash of its options, and writes `run.json` first and `result.json` last. A
run that fails writes `failed.json` with the traceback and is tried once more (and again with --retry); it stays in the table.
A grid file says what is compared and what is tuned (hf_radial/comparison/grid.py). Rows, tables and the figure go to
recipes/results/compare. The engine is hf_radial/comparison; this file is its command line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_radial.comparison.again import run_again
from hf_radial.comparison.collect import collect
from hf_radial.comparison.grid import read_grid, replicates_of
from hf_radial.comparison.jobs import run_all, tune_all
from hf_radial.comparison.outcome import FAILED_FILE
from hf_radial.comparison.paired import chunks, paired_cells
from hf_radial.comparison.run_options import read_run
from hf_radial.comparison.shards import read_shard, shared
from hf_radial.comparison.table import markdown, page_of, write, write_pages
from hf_radial.comparison.trials import judged_cells, tuning_cells
from hf_radial.comparison.workers import in_processes, in_this_process, on_ray
from hf_radial.runs.script import run_recipe
from hf_radial.runs.shipped import shipped_file

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / "configs"
# In a checkout where the committed comparisons are; where the package is installed, in the user's folder.
RESULTS = HERE / "results" / "compare" if (HERE.parent / "setup.cfg").is_file() else Path("runs/tables")


def main(argv: Sequence[str]) -> Path:
    options = parse(argv)
    sys.path.append(str(options.grid.resolve().parent))  # for models and tasks of the user's own, see comparison/own.py
    grid = read_grid(options.grid)
    if options.pages:
        data = json.loads((options.results / f"{grid.name}.json").read_text())
        said = {"title": grid.title, "question": grid.question, "published": list(grid.published)}
        write_pages({**data, **said}, options.results)
        return options.results / f"{grid.name}.md"
    root = options.runs.resolve()
    arms = [(one, setting, arm) for one in replicates_of(grid) for setting in grid.settings for arm in grid.arms]
    try:  # what is wrong is said before anything is trained
        for cells in (part for one in arms for part in tuning_cells(*one, root)):
            for cell in cells:
                read_run(cell.options)
        for cell in [*(cell for one in replicates_of(grid) for cell in judged_cells(one, root)), *paired_cells(grid)]:
            read_run(cell.options)
    except ValueError as error:
        raise ValueError(f"{options.grid}: {error}") from error
    if options.retry:
        for folder in root.glob("*"):
            (folder / FAILED_FILE).unlink(missing_ok=True)
    runner = on_ray(options.ray) if options.ray else in_processes(options.jobs) if options.jobs else in_this_process
    if options.shard:
        runner = shared(runner, options.shard)
    command = f"python recipes/compare.py recipes/configs/{options.grid.name}"
    if options.again:
        print(run_again(grid.name, options.results, options.again, options.runs / "again", runner, options.together))
        return options.results / f"{grid.name}.md"
    if grid.paired and not options.table:
        for i, cells in enumerate(chunks(grid, options.together), 1):
            run_all(cells, root, runner, f"{grid.name} {i}", options.together)
            write(collect(grid, root, command, options.jobs), options.results)  # what is there early can be read and committed
    elif not options.table:
        for i, setting in enumerate(grid.settings, 1):  # one after the other: a setting that is there is complete
            part, title = replace(grid, settings=(setting,)), f"{grid.name} {i}/{len(grid.settings)}"
            if "tuning" in options.only:
                tune_all(part, root, runner, f"{title}: tuning", options.together)
            if "judged" in options.only:
                judged = [cell for one in replicates_of(part) for cell in judged_cells(one, root)]
                run_all(judged, root, runner, f"{title}: judged", options.together)
            if grid.replicates:
                write(collect(grid, root, command, options.jobs), options.results)
    data = collect(grid, root, command, options.jobs)
    if options.table:
        refuse_to_lose_rows(data["rows"], options.results / f"{grid.name}.json", root)
    entries = write(data, options.results)
    print(f"\n{page_of(data) or grid.title + chr(10) * 2 + markdown(entries)}")
    print(f"  table    {options.results / grid.name}.md, .tex, .parquet, .json, .png")
    print(f"  runs     {root}")
    return options.results / f"{grid.name}.md"


def refuse_to_lose_rows(rows: Sequence[dict[str, Any]], file: Path, runs: Path) -> None:
    """Raise ValueError if `--table` would replace a file of results by fewer rows, as in a checkout without its runs."""
    before = json.loads(file.read_text())["rows"] if file.is_file() else []
    if len(rows) < len(before):
        raise ValueError(
            f"--table: {runs} has runs for {len(rows)} of the {len(before)} rows in {file}, so nothing was written; "
            "give --pages to make the pages from these rows, or another --results"
        )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="a grid file, or the name of one of ours: recipes/configs/compare_NAME.yaml")
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 1), help="processes (%(default)s); 0: in this one")
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        help="at most so many MLPs share their steps that differ in seed, learning rate, weight decay, lambda (%(default)s)",
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: its address, 'auto', or 'local'")
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="make it with N such processes that share --runs; this is number I"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="where runs are kept (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where tables go (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=["tuning", "judged"], default=["tuning", "judged"], help="stages to run")
    parser.add_argument(
        "--again",
        nargs="+",
        metavar="WORD",
        help="run again the committed judged runs that have all of these words in 'SETTING, ARM, seed N'; print both outcomes",
    )
    parser.add_argument("--retry", action="store_true", help="forget which runs failed, and make them again")
    parser.add_argument("--table", action="store_true", help="run nothing, make the tables from the runs that there are")
    parser.add_argument("--pages", action="store_true", help="write the pages again, from the committed rows and the grid file")
    options = parser.parse_args(argv)
    options.grid = shipped_file("GRID", options.grid, CONFIGS, "compare_")
    if options.jobs < 0:
        raise ValueError(f"--jobs {options.jobs} must be at least 1, or 0 for this process")
    for name in ("ray", "again", "retry") if options.shard else ():
        if getattr(options, name):
            raise ValueError(f"--{name} is not for a shard; leave out --shard")
    if options.together < 1:
        raise ValueError(f"--together {options.together} must be at least 1")
    return options


def _shard(text: str) -> tuple[int, int]:
    try:
        return read_shard(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    run_recipe(main)
