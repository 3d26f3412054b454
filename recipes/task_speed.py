"""How fast tasks are made: rows per second and memory, beside `Dataset.from_generator` with the same rows.

    python recipes/task_speed.py            # minutes; writes recipes/results/task_speed.json and task_speed.md

Each measurement is a process of its own with one thread, and an empty cache. *Seconds* are from the builder to rows that can be
read, without imports; *peak* is the largest resident memory of the whole process, imports included, and *of imports* what it
was before the rows. The table is made from the data: `python recipes/task_speed.py --table`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# task, configuration, how it is made. A Python generator is measured where it ends in a minute or so.
CASES = (
    ("modular", "add_p997_f0.5_s0", "builder"),
    ("modular", "add_p997_f0.5_s0", "from_generator"),
    ("modular", "add_p997_f0.5_s0_together_lm", "builder"),
    ("modular", "add_p997_f0.5_s0_together_lm", "from_generator"),
    ("groups", "s6_f0.5_s0", "builder"),
    ("groups", "s6_f0.5_s0", "from_generator"),
    ("digits", "add7_uniform_rev_pad_n900000-50000-50000_together_s0", "builder"),
    ("digits", "add7_uniform_rev_pad_n900000-50000-50000_together_s0", "from_generator"),
    ("digits", "add10_uniform_rev_pad_n10000000-1000-1000_together_s0", "stream"),
    ("digits", "add20_uniform_rev_pad_n10000000-1000-1000_together_s0", "stream"),
)
REPEATS = 3


def measure(task: str, config: str, how: str) -> dict[str, Any]:
    """One measurement, in this process."""
    import datasets

    from hf_radial.tasks.load import builder_class, load_task

    builder_class(task)
    datasets.disable_progress_bars()
    before = peak_mb()
    with tempfile.TemporaryDirectory() as cache:
        rows: list[dict[str, Any]] = []
        features = None
        if how == "from_generator":  # the same rows, as Python objects, which are there before the clock starts
            whole = load_task(task, config, cache_dir=cache)
            rows = [row for split in whole.values() for row in split]
            features = whole["train"].features
        start, cpu = time.perf_counter(), time.process_time()
        if how == "stream":
            count = sum(
                len(table)
                for split in load_task(task, config, cache_dir=cache, streaming=True).values()
                for table in split.with_format("arrow").iter(100_000)
            )
        elif how == "builder":
            count = sum(len(split) for split in load_task(task, config, cache_dir=cache).values())
        else:
            count = len(
                datasets.Dataset.from_generator(lambda: iter(rows), features=features, cache_dir=cache, fingerprint="x")
            )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"rows": count, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak_mb(), "imports_mb": before}


def peak_mb() -> float:
    """The largest resident memory of this process so far, in MB, as Linux counts it.

    Not `resource.ru_maxrss`, which starts with the value of the parent process.
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def run_all() -> dict[str, Any]:
    """All cases, each in processes of its own."""
    from hf_radial.runs.record import describe_environment

    results = []
    for task, config, how in CASES:
        runs = []
        for _ in range(1 if how == "from_generator" else REPEATS):
            command = [sys.executable, __file__, "--one", task, config, how]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        results.append({"task": task, "config": config, "how": how, "runs": runs})
        print(f"{task}/{config} {how}: {[round(run['seconds'], 2) for run in runs]} s", flush=True)
    environment = describe_environment()
    return {"command": "python recipes/task_speed.py", "environment": environment, "results": results}


def markdown(data: dict[str, Any]) -> str:
    """The table of the data: the median of the runs."""
    machine, versions = data["environment"]["machine"], data["environment"]["versions"]
    lines = [
        "# How fast tasks are made",
        "",
        f"`{data['command']}` on {machine['device']}, one thread, datasets {versions['datasets']}, "
        f"Python {versions['python']}, "
        f"revision {data['environment']['revision']}. Seconds without imports, the median of the runs; the largest memory of "
        "the process, which is not told of `from_generator`, whose rows lie ready as Python objects.",
        "",
        "| configuration | made by | rows | seconds | rows per second | peak MB | of imports |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in data["results"]:
        run = sorted(result["runs"], key=lambda run: run["seconds"])[len(result["runs"]) // 2]
        peak = max(run["peak_mb"] for run in result["runs"])
        memory = "– | –" if result["how"] == "from_generator" else f"{peak:.0f} | {run['imports_mb']:.0f}"
        lines.append(
            f"| {result['task']} `{result['config']}` | {result['how']} | {run['rows']:,} | {run['seconds']:.2f} | "
            f"{run['rows'] / run['seconds']:,.0f} | {memory} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only make the table from the data again")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    file = RESULTS / "task_speed.json"
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    if not options.table:
        file.write_text(json.dumps(run_all(), indent=1) + "\n")
    (RESULTS / "task_speed.md").write_text(markdown(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
