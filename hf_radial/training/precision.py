"""Measures in which precision a model trains faster on this machine. Processors differ, and there is no other way to know.

In here: the seconds of a training step in float32 and under bfloat16 autocast (`time_precisions`), and a file that holds them
(`remembered_precision`). Not in here: what a recipe makes of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from hf_radial.safe_files import write_text

PRECISIONS = {"float32": False, "bfloat16": True}  # the value of `bf16` in TrainingArguments
PRECISION_FILE = "precision.json"


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


def remembered_precision(
    folder: Path, make_model: Callable[[], nn.Module], shape: tuple[int, int], device: torch.device
) -> dict[str, Any]:
    """The faster precision for a language model. It is measured once and kept in `precision.json`.

    A run that goes on finds the file. It then trains in the precision in which it began.

    Args:
        folder: of the file.
        make_model: returns the model; it is called only if the file is missing.
        shape: rows of a batch, and tokens of a row. The values of the tokens do not matter.
        device: where training runs.

    Returns:
        `precision` (a key of `PRECISIONS`), `seconds_a_step` (see `time_precisions`), and `rows` of a batch.
    """
    file = folder / PRECISION_FILE
    if file.is_file():
        known: dict[str, Any] = json.loads(file.read_text())
        return known
    model = make_model().to(device)
    ids = torch.ones(shape, dtype=torch.long, device=device)
    seconds = time_precisions(model, {"input_ids": ids, "labels": ids, "attention_mask": ids})
    found = {"precision": min(seconds, key=seconds.__getitem__), "seconds_a_step": seconds, "rows": len(ids)}
    write_text(file, json.dumps(found, indent=1) + "\n")
    return found
