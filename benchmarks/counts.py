"""Costs that no machine changes: operations, bytes kept for the backward pass, allocations, waits for the device.

What is counted is one call of a function, usually a training step. `peak_tensor_bytes` is the most memory that tensors held at
once. Times are not in here (`pairs.py`), and neither is what the process takes beside tensors (`resident_bytes`, of Linux).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.pairs import collected

# Operations that read a number of the device on the host, and wait for it. `.item()`, `bool(tensor)` and `float(tensor)` are
# all the first; the others are shapes that depend on values.
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten._unique2", "aten.masked_select")
# These compute nothing and allocate nothing: another view of the same memory.
VIEWS = ("view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias",
         "as_strided", "permute", "split", "unbind", "reshape", "lift_fresh")  # fmt: skip


@dataclass
class Counts:
    """What one call did.

    Attributes:
        operations: tensor operations dispatched in forward, backward and all else, views left out, by name.
        saved_bytes: memory that the graph kept for the backward pass beside the parameters, each byte once.
        allocations: how often memory was taken from the allocator.
        peak_bytes: the most that was taken at one time beyond what was there before.
        waits: operations at which the host waits for the device.
    """

    operations: Counter[str]
    saved_bytes: int
    allocations: int
    peak_bytes: int
    waits: int

    def minus(self, other: Counts) -> Counts:
        """The difference, operation by operation."""
        operations = Counter(self.operations)
        operations.subtract(other.operations)
        return Counts(
            Counter({name: count for name, count in operations.items() if count}),
            self.saved_bytes - other.saved_bytes,
            self.allocations - other.allocations,
            self.peak_bytes - other.peak_bytes,
            self.waits - other.waits,
        )


class Operations(TorchDispatchMode):
    """Counts the operations within. Those of an `autograd.Function` and of the backward pass are seen, too."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func).rpartition(".")[0]] += 1
        return func(*args, **(kwargs or {}))

    def computing(self) -> Counter[str]:
        """Without the views."""
        return Counter({name: count for name, count in self.count.items() if name.partition(".")[2] not in VIEWS})

    def waits(self) -> int:
        """How many of them wait for the device."""
        return sum(self.count[name] for name in WAITS)


def count(call: Callable[[], object], parameters: Iterable[Tensor] = ()) -> Counts:
    """Call it three times, and count something else each time. Call it before, too: a first step makes what later ones have.

    Args:
        call: one step; each call must do the same.
        parameters: tensors that are there anyway: where the graph keeps them, they are not counted.
    """
    with Operations() as operations:
        call()
    there = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    saved = sum(storage.nbytes() for storage in kept.values())
    kept.clear()
    allocations, peak = allocated(call)
    return Counts(operations.computing(), saved, allocations, peak, operations.waits())


def allocated(call: Callable[[], object]) -> tuple[int, int]:
    """How often the call takes memory for tensors on the CPU, and the most bytes that it holds at once.

    From the allocator itself, by way of the profiler: temporary memory within an operation counts as well. What is freed
    without having been allocated within the call is not seen, so nothing that was there before should be.
    """
    with collected(), torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    # Device type 0 is the CPU.
    events = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    if not events:
        return 0, 0
    first, found = min(events, key=lambda event: event["ts"])["args"], [event["args"] for event in events]
    # The allocator's own sum goes on from profile to profile.
    before = first["Total Allocated"] - first["Bytes"]
    return sum(args["Bytes"] > 0 for args in found), max(args["Total Allocated"] for args in found) - before


def peak_tensor_bytes(step: Callable[[], object], there: Iterable[Tensor]) -> int:
    """The most bytes that tensors hold during a step.

    Args:
        step: takes at its beginning no memory that it gives back (gradients are set to `None` before).
        there: the tensors that live through it: parameters, the optimizer's state, the batch.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in there}
    return sum(storages.values()) + allocated(step)[1]


def resident_bytes() -> int:
    """The most memory that this process has had so far (`VmHWM`): tensors, libraries, Python and all.

    Raises:
        OSError: not on Linux.
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
