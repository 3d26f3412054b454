"""A grid made by processes that have nothing in common but a folder: the tasks of a Slurm array, or of any other scheduler.

    python recipes/compare.py GRID --shard 1/4            # and 2/4, 3/4 and 4/4: at any time, in any order, on any machine

Each shard begins at a place of its own in the list of jobs, and then makes whatever no other makes. A job is claimed by a file
lock in the shared folder. When a shard is killed, its locks end with it, and the others make its jobs. A shard that starts
late, or never, costs only time. The judged runs need the tuning's results, so there the shards wait for each other.

The folder must have locks that all machines see: a local disk, NFS 4, Lustre mounted with `flock`, or GPFS.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from hf_radial.comparison.jobs import LOCK_FILE, AnyJob, Job, Jobs, Runner, TuningJob
from hf_radial.comparison.outcome import Runs
from hf_radial.safe_files import locked_if_free

CLAIMS = ".claims"  # folder of the locks of tunings, in the folder of the runs
PAUSE = 1.0  # seconds between two looks at jobs that other shards make


@dataclass(frozen=True)
class Claim:
    """A job that is made only if no other shard makes it now."""

    job: AnyJob

    def make(self) -> None:
        with ExitStack() as held:
            if self._take(held):
                self.job.make()

    def undone(self) -> Runs:
        """The runs that a process which has ended may have left undone: none while another shard makes them."""
        with ExitStack() as held:
            if not self._take(held):
                return []
            return self.job.undone()[: 1 if isinstance(self.job, TuningJob) else None]

    def _take(self, held: ExitStack) -> bool:
        return all(held.enter_context(locked_if_free(file)) for file in locks_of(self.job))


def locks_of(job: AnyJob) -> list[Path]:
    """The files whose locks a shard holds while it makes a job: those of the runs, or one for each tuning."""
    if isinstance(job, Job):
        return sorted(folder / LOCK_FILE for folder, _ in job.runs)
    files = []
    for one in (job,) if isinstance(job, TuningJob) else job.tunings:
        text = json.dumps([one.grid.name, one.grid.replicate, one.setting, one.arm.name], sort_keys=True, default=str)
        files.append(one.root / CLAIMS / f"{sha256(text.encode()).hexdigest()[:16]}.lock")
    return files


def shared(runner: Runner, shard: tuple[int, int]) -> Runner:
    """A runner that makes its share of the jobs, and those of the others that they do not make.

    Args:
        runner: makes the jobs of this shard.
        shard: this one's number, from 1, and how many there are.
    """

    def run(todo: Jobs) -> Iterator[AnyJob]:
        before = [job.undone() for job in todo]
        first = len(todo) * (shard[0] - 1) // shard[1]
        claims = [Claim(job) for job in (*todo[first:], *todo[:first])]
        for claim in runner(claims):  # type: ignore[arg-type]  # a claim is made as a job is
            yield claim.job  # type: ignore[union-attr]
        if [job.undone() for job in todo] == before:  # the others are still making them
            time.sleep(PAUSE)

    return run


def read_shard(text: str) -> tuple[int, int]:
    """The number of a shard and how many there are.

    Raises:
        ValueError: the text is not `i/n` with i from 1 to n.

    >>> read_shard("2/4")
    (2, 4)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"--shard {text} must be I/N with I from 1 to N, such as 1/4 for the first of four")
    return number, count
