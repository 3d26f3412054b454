"""The targets of speed and memory: measures them and prints the table.

    python benchmarks/run.py                                  # everything that this machine can; about half an hour of one core
    python benchmarks/run.py --only penalty trainer           # some groups; what the file has of others stays as it is
    python benchmarks/run.py --only penalty-gpu trainer-gpu sweep-gpu        # on a GPU
    python benchmarks/run.py --only peers --grokfast PATH --orthograd PATH   # see benchmarks/peers.py
    python benchmarks/run.py --table                          # only make the table from the data again

Writes recipes/results/benchmarks.json (machine, versions, configuration and every sample) and benchmarks.md. All values are
ratios within one run; benchmarks/pairs.py says how they are measured. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch
from transformers.utils import logging

from benchmarks import on_paper, peers, penalty_cost, scaling, step_parts, trainer_speed, whole_recipes
from benchmarks.settings import Settings
from benchmarks.table import Row, markdown, row_from_json, terminal
from hf_radial.runs.record import describe_environment

RESULTS = Path(__file__).resolve().parent.parent / "recipes" / "results"
FILE = "benchmarks.json"
Rows = Callable[[Settings], Iterator[Row]]
# In the order of the table: a heading, and the function that yields the rows.
GROUPS: dict[str, tuple[str, Rows]] = {
    "penalty": ("The penalty on a language model", penalty_cost.rows),
    "penalty-gpu": ("The penalty on a language model, GPU", penalty_cost.gpu_rows),
    "trainer": ("The trainer on a tiny model", trainer_speed.rows),
    "step-parts": ("Where a step at lambda 0 goes", step_parts.rows),
    "trainer-gpu": ("The trainer on a tiny model, GPU", trainer_speed.gpu_rows),
    "sweep": ("A sweep of seeds", whole_recipes.sweep_rows),
    "sweep-gpu": ("A sweep of seeds, GPU", partial(whole_recipes.sweep_rows, device="cuda")),
    "cold-start": ("From nothing to a solved task", whole_recipes.cold_start_rows),
    "geometry": ("Measuring geometry", whole_recipes.geometry_rows),
    "peers": ("Other methods, in their authors' code", peers.rows),
    "scaling": ("How the penalty's cost grows", scaling.rows),
}
BUSY = 0.3  # other processes that want to run, on average over a minute


def main(argv: list[str]) -> None:
    options = parse(argv)
    file = options.results / FILE
    data = json.loads(file.read_text()) if file.is_file() else {"groups": {}}
    if not options.table:
        torch.set_num_threads(options.threads)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        for name in options.only:
            data["groups"][name] = measure(name, options.settings)
            # Written after every group, so that a later failure loses nothing.
            options.results.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"groups": in_order(data["groups"])}, indent=1) + "\n")
    (options.results / "benchmarks.md").write_text(document(data))
    print("\n" + terminal(targets(data) or [row for name in data["groups"] for row in rows_of(data, name)]))
    print(f"\n{options.results / 'benchmarks.md'}\n{file}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="NAME", help=", ".join(GROUPS))
    parser.add_argument("--quick", action="store_true", help="a smoke test in a minute or two; its numbers mean nothing")
    parser.add_argument(
        "--pairs", type=int, default=Settings.pairs, help="interleaved pairs of each row (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=Settings.seeds, help="of runs to the onset, --only peers (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; the cold start takes all cores (default: %(default)s)"
    )
    parser.add_argument("--grokfast", type=Path, help="a checkout of the authors' code")
    parser.add_argument("--orthograd", type=Path, help="a checkout of the authors' code")
    parser.add_argument("--results", type=Path, default=None, help="folder to write to (default: recipes/results)")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args(argv)
    if options.results is None:
        if options.quick:
            parser.error("--quick needs --results FOLDER: its numbers must not take the place of measured ones")
        options.results = RESULTS
    if options.threads < 1:
        parser.error(f"--threads {options.threads} must be at least 1")
    try:
        options.settings = Settings(options.pairs, options.quick, options.seeds, options.grokfast, options.orthograd)
        for name in peers.FILES:
            if getattr(options, name) is not None:
                peers.authors_file(getattr(options, name), name)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    return options


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Measure one group, and record the machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    title, rows_of_group = GROUPS[name]
    print(f"\n{title}", flush=True)
    start, rows = time.perf_counter(), []
    for row in rows_of_group(settings):
        rows.append(row)
        print(terminal([row]).splitlines()[1], flush=True)
    return {
        "title": title,
        "rows": [row.to_json() for row in rows],
        "settings": {"pairs": settings.pairs, "quick": settings.quick, "seeds": settings.seeds},
        "environment": {**describe_environment(), "cores": os.cpu_count()},
        "load_before": load,
        "seconds": time.perf_counter() - start,
    }


def in_order(groups: dict[str, Any]) -> dict[str, Any]:
    return {name: groups[name] for name in GROUPS if name in groups}


def rows_of(data: dict[str, Any], name: str) -> list[Row]:
    return [row_from_json(row) for row in data["groups"][name]["rows"]]


def targets(data: dict[str, Any]) -> list[Row]:
    """The rows that have a target, of all groups."""
    rows = [row for name in in_order(data["groups"]) for row in rows_of(data, name)]
    return [row for row in rows if row.at_most is not None or row.at_least is not None]


def document(data: dict[str, Any]) -> str:
    """benchmarks.md, from the data."""
    lines = [
        "# What it costs",
        "",
        "Made by `python benchmarks/run.py` from benchmarks.json, which has every sample. A ratio is the median over",
        "interleaved pairs in one run; *spread* is from the lower to the upper quartile, with the number of pairs. The targets",
        "come first, then all rows by group, also those that are there to compare.",
        "",
        "## Targets",
        "",
        markdown(targets(data)),
        "",
    ]
    for name in in_order(data["groups"]):
        group = data["groups"][name]
        machine, versions = group["environment"]["machine"], group["environment"]["versions"]
        rows = rows_of(data, name)
        lines += [f"## {group['title']}", ""]
        if any(row.values for row in rows):
            # The load over one minute, which includes the previous group.
            busy = group["load_before"] is not None and group["load_before"] > 1 + BUSY
            lines += [
                f"`python benchmarks/run.py --only {name}` on {machine['device']} ({group['environment']['cores']} cores, "
                f"{machine['torch_threads']} of torch's threads), torch {versions['torch']}, transformers "
                f"{versions['transformers']}, revision {group['environment']['revision']}, {group['seconds']:.0f} s"
                + (f". **The machine was busy: load {group['load_before']:.1f}.**" if busy else "."),
                "",
            ]
        lines += [markdown(rows), ""]
        lines += [f"- {row.what}: {row.note}." for row in rows if row.note]
        if lines[-1]:
            lines.append("")
    return "\n".join([*lines, f"## {on_paper.TITLE}", "", on_paper.markdown(on_paper.Cluster()), ""])


if __name__ == "__main__":
    main(sys.argv[1:])
