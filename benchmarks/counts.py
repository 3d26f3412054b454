"""Costs that do not depend on the machine: operations, bytes kept for the backward pass, allocations, waits for the device.

They are counted in one call of a function, usually a training step. `peak_tensor_bytes` is the most memory that tensors hold at
once. Times are in `pairs.py`. `resident_bytes` is the memory of the whole process, on Linux.
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

# Operations that read a number from the device and wait for it. `.item()`, `bool(tensor)` and `float(tensor)` are
# all the first; the others are shapes that depend on values.
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten._unique2", "aten.masked_select")
# These compute and allocate nothing: they are views of the same memory.
VIEWS = ("view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias",
         "as_strided", "permute", "split", "unbind", "reshape", "lift_fresh")  # fmt: skip


@dataclass
class Counts:
    """The costs of one call.

    Attributes:
        operations: name -> number of tensor operations in forward, backward and everything else, without views.
        saved_bytes: bytes that the graph kept for the backward pass, without parameters, each byte once.
        allocations: number of allocations.
        peak_bytes: the most bytes that the call held at one time.
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
    """Counts the operations within, also those of an `autograd.Function` and of the backward pass."""

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
        """The number of operations that wait for the device."""
        return sum(self.count[name] for name in WAITS)


def count(call: Callable[[], object], parameters: Iterable[Tensor] = ()) -> Counts:
    """Call it three times, and count something else each time. Call it once before, since a first step makes lasting tensors.

    Args:
        call: one step; each call must do the same.
        parameters: tensors that exist anyway; they do not count where the graph keeps them.
    """
    with Operations() as operations:
        call()
    there = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    saved = sum(storage.nbytes() for storage in kept.values())
    kept.clear()
    allocations, peak = allocated(call)
    return Counts(operations.computing(), saved, allocations, peak, operations.waits())


def allocated(call: Callable[[], object]) -> tuple[int, int]:
    """The number of allocations of a call on the CPU, and the most bytes that it holds at once.

    The numbers come from the allocator, through the profiler, so temporary memory within an operation counts too. The call must
    not free memory that was allocated before it.
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
    # The allocator's own sum continues from profile to profile.
    before = first["Total Allocated"] - first["Bytes"]
    return sum(args["Bytes"] > 0 for args in found), max(args["Total Allocated"] for args in found) - before


def peak_tensor_bytes(step: Callable[[], object], there: Iterable[Tensor]) -> int:
    """The most bytes that tensors hold during a step.

    Args:
        step: a step that frees no memory from before it (gradients are `None` at its start).
        there: the tensors that exist throughout: parameters, the optimizer's state, the batch.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in there}
    return sum(storages.values()) + allocated(step)[1]


def resident_bytes() -> int:
    """The peak resident memory of this process so far (`VmHWM`), with libraries and Python.

    Raises:
        OSError: not on Linux.
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
