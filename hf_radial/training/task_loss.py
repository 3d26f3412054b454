"""The task loss of a `Trainer`, for a measurement during training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

# trl's trainers keep statistics of every batch for their next log in these attributes (`docs/internals.md`).
NOTED = ("_metrics", "_total_train_tokens")


def task_loss_of(trainer: Trainer) -> Callable[[nn.Module, dict[str, Any]], Tensor]:
    """The trainer's own task loss as a function of model and batch. Statistics that the trainer collects meanwhile are
    undone."""

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        noted = {name: copy.deepcopy(value) for name, value in vars(trainer).items() if name in NOTED}
        try:
            found = trainer.compute_loss(model, dict(batch))
            return found[0] if isinstance(found, tuple) else found
        finally:
            vars(trainer).update(noted)

    return loss
