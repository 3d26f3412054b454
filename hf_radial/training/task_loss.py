"""The task loss of a `Trainer`, for a measurement during training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from hf_radial.internals.trl_statistics import statistics_kept


def task_loss_of(trainer: Trainer) -> Callable[[nn.Module, dict[str, Any]], Tensor]:
    """The trainer's own task loss as a function of model and batch. It leaves the trainer's statistics as they are."""

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        with statistics_kept(trainer):
            found = trainer.compute_loss(model, dict(batch))
        return found[0] if isinstance(found, tuple) else found

    return loss
