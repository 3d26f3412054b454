"""Interleaved pairs, the method of every time measurement here. This file does not know what is measured.

The arms take turns in one process, a few steps each, so that a slow moment of the machine affects all of them. A ratio compares
the two halves of one pair, never two medians. The order within a round is reversed from round to round, so that no arm is
always first. The first round is a warm-up and is dropped. Python's garbage is collected before each half and not during it,
since a pause would hit one arm by chance.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median, quantiles

import torch


def interleave(arms: Mapping[str, Callable[[], float]], pairs: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run every arm `warm_up + pairs` times in turn. An arm returns its measurement. The warm-up is left out.

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
    """Collect garbage now, and not inside the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def seconds_per_call(call: Callable[[], object], calls: int, device: str | torch.device = "cpu") -> float:
    """Mean seconds of `calls` calls in a row; the device is idle at the start and at the end."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - start) / calls


def wait(device: str | torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """One ratio per pair.

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
