"""In which precision does a model train faster on this machine? Measured: processors differ, and nothing else tells.

In here: the seconds of a training step in float32 and under bfloat16 autocast. Not in here: what a recipe makes of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from statistics import median

import torch
from torch import Tensor, nn

PRECISIONS = {"float32": False, "bfloat16": True}


def time_precisions(model: nn.Module, batch: Mapping[str, Tensor], steps: int = 5) -> dict[str, float]:
    """Seconds of one training step in each precision: forward, backward and AdamW, weights in float32 throughout.

    The two take turns, so that other work on the machine slows both. On a CPU these are CPU seconds of all threads of this
    process; on an accelerator, wall-clock seconds. The model keeps its weights, because a copy of it is trained.

    Args:
        model: a model that returns an object with a `loss`.
        batch: its inputs, labels included, of the size that training has; any values.
        steps: steps timed in each precision, after one that is not counted.

    Returns:
        "float32" and "bfloat16" (autocast), each with its median seconds.

    Raises:
        ValueError: `steps` is smaller than 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    copied = deepcopy(model).train()
    optimizer = torch.optim.AdamW(copied.parameters(), lr=1e-6)
    device = next(copied.parameters()).device
    now = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout draws
        for _ in range(steps + 1):
            for name, autocast in PRECISIONS.items():
                start = now()
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
                    loss = copied(**batch).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if device.type != "cpu":
                    float(next(copied.parameters()).detach().flatten()[0])  # waits for the device
                seconds[name].append(now() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}
