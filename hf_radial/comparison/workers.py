"""Where the jobs of a comparison run: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from typing import Any

from hf_radial.comparison.jobs import AnyJob, Jobs, Runner, note_failures


def in_this_process(todo: Jobs) -> Iterator[AnyJob]:
    """Run jobs one after another in this process. No process is started, and a crash ends everything."""
    for job in todo:
        job.make()
        yield job


IMPORTED = ["torch", "datasets", "transformers.trainer", "hf_radial.training.trainer", "hf_radial.models.modular_mlp"]


def in_processes(processes: int) -> Runner:
    """Run jobs in parallel in `processes` processes. If a process dies, the runs that it may have been making have failed."""

    def runner(todo: Jobs) -> Iterator[AnyJob]:
        waiting, context = list(todo), _context()
        while waiting:
            with ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool:
                running: dict[Future[Any], AnyJob] = {}
                broken = False
                while (waiting or running) and not broken:
                    while waiting and len(running) < processes:
                        job = waiting.pop(0)
                        running[pool.submit(job.make)] = job
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        job = running.pop(future)
                        try:
                            future.result()
                        except BrokenProcessPool as error:
                            broken = True
                            note_failures(job, str(error))
                        yield job
                if broken:  # the jobs that did not fail are repeated
                    waiting += [job for job in running.values() if job.undone()]

    return runner


def _context() -> BaseContext:
    """Workers are forked from a process that has imported torch and transformers and done nothing else. That saves seconds."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def end_with_parent() -> None:
    """End this process when its parent has ended, even if it was killed. Otherwise a worker would wait forever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def made_by_ray(job: AnyJob) -> None:
    job.make()


def on_ray(address: str) -> Runner:
    """Run jobs on a Ray cluster whose machines share the folder. If a worker dies, its job is repeated elsewhere."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("--ray needs Ray: pip install 'hf_radial[ray]'") from error

    def runner(todo: Jobs) -> Iterator[AnyJob]:
        ray.init(address=None if address == "local" else address, ignore_reinit_error=True, log_to_driver=False)
        remote = ray.remote(num_cpus=1, max_retries=3)(made_by_ray)
        running = {remote.remote(job): job for job in todo}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                job = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    note_failures(job, f"{type(error).__name__}: {error}")
                yield job

    return runner
