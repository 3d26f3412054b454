"""Interleaved pairs: how every time here is taken. Nothing in here knows what is measured.

Arms are run in turn, each a few steps at a time, in one process: a machine that slows down, slows all of them down. A ratio is
that of the two halves of one pair, never of two medians. The order within a round is turned around from round to round, so
that being first is nobody's lot. The first round warms up and is thrown away. Python's garbage is collected before a half and
not during it: a pause would hit whichever arm happens to run.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median, quantiles

import torch


def interleave(arms: Mapping[str, Callable[[], float]], pairs: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run every arm `warm_up + pairs` times in turn; an arm returns what it measured. The warm-up is left out.

    >>> interleave({"on": lambda: 3.0, "off": lambda: 2.0}, pairs=2)
    {'on': [3.0, 3.0], 'off': [2.0, 2.0]}
    """
    found: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(warm_up + pairs):
        for name in list(arms) if i % 2 == 0 else reversed(list(arms)):
            with collected():
                value = arms[name]()
            if i >= warm_up:
                found[name].append(value)
    return found


@contextmanager
def collected() -> Iterator[None]:
    """Collect garbage now, and not within."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def seconds_per_call(call: Callable[[], object], calls: int, device: str | torch.device = "cpu") -> float:
    """Mean seconds of `calls` calls in a row, from a device that has nothing to do to one that has done it all."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - start) / calls


def wait(device: str | torch.device) -> None:
    """Until a GPU has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """One ratio a pair.

    >>> ratios([3.0, 4.0], [2.0, 4.0])
    [1.5, 1.0]
    """
    return [a / b for a, b in zip(over, under, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of the values; of a single one, itself three times.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return lower, median(values), upper
