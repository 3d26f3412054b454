"""Processes that load one configuration into one new cache at almost the same moment, while one of them damages the cache.

    python tests/tasks/cache_stress.py --processes 4 --rounds 500      # 3,000 loads

Each round has a new cache folder. Every process waits a random time, then loads and checks all rows. In every second round,
process 0 then damages the cache (`DAMAGES`, `LOSSES`) and all processes load again. Prints what was counted, as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

CONFIG = "mul_p97_f0.5_s0"
# Longest wait before a load, in seconds. To prepare the rows takes about as long.
STAGGER = 0.03


def replace(file: Path, content: bytes) -> None:
    """Replace a file in one move: a process that has mapped the old one must not lose pages of it."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_bytes(content)
    os.replace(new, file)


def remove(folder: Path) -> None:
    """Remove a folder in one move. During `rmtree` there is a moment with the description and without rows: a damaged cache."""
    gone = folder.with_name(f"{folder.name}.gone")
    folder.rename(gone)
    shutil.rmtree(gone)


def arrow(folder: Path) -> Path:
    return next(folder.rglob("*-test.arrow"))


def info(folder: Path) -> Path:
    return next(folder.rglob("dataset_info.json"))


# What is damaged, which is warned of, and what is only missing, which is not.
DAMAGES = {
    "an Arrow file is missing": lambda folder: arrow(folder).unlink(),
    "an Arrow file is cut": lambda folder: replace(arrow(folder), arrow(folder).read_bytes()[:2000]),
    "the description is cut": lambda folder: replace(info(folder), info(folder).read_bytes()[:200]),
    "the description is empty": lambda folder: replace(info(folder), b""),
}
LOSSES = {
    "the description is missing": lambda folder: info(folder).unlink(),
    "the folder is missing": lambda folder: remove(info(folder).parent),
    "everything is missing": remove,
}


def work(rank: int, rounds: int, root: str, barrier: Any, results: Any) -> None:
    """The rounds of one process. Puts (rank, counts, errors) into `results`."""
    from hf_radial.tasks.checksums import checksum
    from hf_radial.tasks.load import load_task

    counts: Counter[str] = Counter()
    errors: list[str] = []
    heard = Warnings()
    logging.getLogger("hf_radial").addHandler(heard)
    expected = os.environ["EXPECTED_CHECKSUM"]

    def load(folder: Path, what: str) -> None:
        time.sleep(random.uniform(0, STAGGER))
        try:
            found = checksum(load_task("modular", CONFIG, cache_dir=str(folder))["test"])
            counts["wrong rows" if found != expected else "right"] += 1
        except Exception as error:
            counts["failed"] += 1
            errors.append(f"{what}: {type(error).__name__}: {error}")

    random.seed(rank)
    acts = DAMAGES | LOSSES
    names = list(acts)
    for i in range(rounds):
        folder = Path(root) / str(i)
        barrier.wait(120)
        heard.place = "new"
        load(folder, "new cache")
        if i % 2:
            barrier.wait(120)
            heard.place = names[i // 2 % len(names)]
            if rank == 0:
                time.sleep(random.uniform(0, STAGGER))
                try:
                    acts[heard.place](folder)
                except (OSError, StopIteration):
                    counts["damages that found no file"] += 1
            load(folder, heard.place)
        barrier.wait(120)
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    counts.update({f"warnings, {place}": count for place, count in heard.counts.items()})
    results.put((rank, dict(counts), errors))


class Warnings(logging.Handler):
    """Counts warnings by what was being done."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.place, self.counts = "", Counter[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[self.place] += 1


def stress(processes: int, rounds: int) -> dict[str, Any]:
    """Run it. Returns the counts of all processes together and the first errors."""
    from hf_radial.tasks.checksums import checksum
    from hf_radial.tasks.load import load_task

    context = get_context("forkserver")  # imports once and forks from there
    context.set_forkserver_preload(["hf_radial.tasks.load", "hf_radial.tasks.modular", "datasets.arrow_writer"])
    barrier, results = context.Barrier(processes), context.Queue()
    with tempfile.TemporaryDirectory() as root:
        os.environ["EXPECTED_CHECKSUM"] = checksum(load_task("modular", CONFIG, cache_dir=f"{root}/alone")["test"])
        workers = [context.Process(target=work, args=(rank, rounds, root, barrier, results)) for rank in range(processes)]
        for worker in workers:
            worker.start()
        counts: Counter[str] = Counter()
        errors: list[str] = []
        for _ in workers:
            _, found, said = results.get(timeout=3600)
            counts.update(found)
            errors += said
        for worker in workers:
            worker.join()
    return {"processes": processes, "rounds": rounds, "counts": dict(sorted(counts.items())), "errors": errors[:10]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    print(json.dumps(stress(options.processes, options.rounds), indent=1))
