"""The hand-written loop that the trainer is compared with: the fastest that an expert would write for this MLP.

The rows are tensors on the device, a batch is an index into them, the forward pass is written out over the model's own layers
(no module calls that are not needed, no output object), the penalty is a line in it, and the optimizer is fused AdamW with the
trainer's parameter groups. It logs nothing, evaluates nothing and saves nothing. `train` is the loop, `train_graphed` the same
with the whole step as one CUDA graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pairs import wait
from hf_radial.models.modular_mlp import ModularMLPForSequenceClassification

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-3
LossOf = Callable[[ModularMLPForSequenceClassification, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Steps:
    """The part of a run that is timed: `timed` steps after `warm_up` others."""

    warm_up: int
    timed: int

    @property
    def total(self) -> int:
        return self.warm_up + self.timed


def loss_by_hand(model: ModularMLPForSequenceClassification, ids: Tensor, labels: Tensor, radial_lambda: float) -> Tensor:
    """Cross-entropy plus, unless `radial_lambda` is 0, the penalty on the hidden layers' pre-activations."""
    x = model.embedding(ids).flatten(1)
    terms = []
    for layer in model.hidden:
        h = layer(x)
        if radial_lambda > 0:
            terms.append((h.norm(dim=-1) - sqrt(h.shape[-1])).square().mean() / h.shape[-1])
        x = F.relu(h)
    loss = F.cross_entropy(model.classifier(x), labels)
    return loss + radial_lambda * sum(terms) if terms else loss


def optimizer_by_hand(model: ModularMLPForSequenceClassification, weight_decay: float = WEIGHT_DECAY, **options: Any) -> Any:
    """AdamW as the trainer sets it up: no weight decay on biases."""
    groups = [
        {"params": [p for name, p in model.named_parameters() if not name.endswith("bias")], "weight_decay": weight_decay},
        {"params": [p for name, p in model.named_parameters() if name.endswith("bias")], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, LEARNING_RATE, **options)


def train(
    model: ModularMLPForSequenceClassification,
    ids: Tensor,
    labels: Tensor,
    batch: int,
    steps: Steps,
    radial_lambda: float,
    fused: bool = True,
    drop_last: bool = False,
    loss_of: LossOf | None = None,
) -> float:
    """Train with a new order in each epoch; a batch of all rows keeps their order. Returns seconds per step.

    Args:
        model: the model, on the device.
        ids, labels: all rows, on the device.
        batch: rows per step.
        steps: number of steps.
        radial_lambda: weight of the penalty.
        fused: `False` for torch's default AdamW.
        drop_last: leave out an epoch's last batch if it is smaller.
        loss_of: the loss of a batch in the place of `loss_by_hand`.
    """
    loss_of = loss_of or loss_by_hand
    device, count = ids.device, len(labels)
    optimizer = optimizer_by_hand(model, fused=True if fused else None)
    done, started = 0, time.perf_counter()
    while done < steps.total:
        order = torch.randperm(count, device=device) if batch < count else None
        for first in range(0, count - batch + 1 if drop_last else count, batch):
            if done == steps.warm_up:
                wait(device)
                started = time.perf_counter()
            if order is None:
                x, y = ids, labels
            else:
                index = order[first : first + batch]
                x, y = ids[index], labels[index]
            loss = loss_of(model, x, y, radial_lambda)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps.total:
                break
    wait(device)
    return (time.perf_counter() - started) / steps.timed


def train_graphed(
    model: ModularMLPForSequenceClassification, ids: Tensor, labels: Tensor, batch: int, steps: Steps, radial_lambda: float
) -> float:
    """`train(..., drop_last=True)` on a GPU, where a step is one CUDA graph that is replayed. Returns seconds per step.

    https://pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
    """
    device, count = ids.device, len(labels)
    optimizer = optimizer_by_hand(model, fused=True, capturable=True)
    index = torch.arange(batch, device=device)  # a replay of the graph reads the current content

    def step() -> None:
        x, y = (ids, labels) if batch >= count else (ids[index], labels[index])
        loss_by_hand(model, x, y, radial_lambda).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # buffers of the first use must exist before the capture
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # gradients are allocated in the graph, so a replay writes them again
        step()
    done, started = 0, time.perf_counter()
    while done < steps.total:
        order = torch.randperm(count, device=device)
        for first in range(0, count - batch + 1, batch):
            if done == steps.warm_up:
                wait(device)
                started = time.perf_counter()
            if batch < count:
                index.copy_(order[first : first + batch])
            graph.replay()
            done += 1
            if done == steps.total:
                break
    wait(device)
    return (time.perf_counter() - started) / steps.timed
