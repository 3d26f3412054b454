"""What interventions on gradients have in common."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import Trainer


def check_gradients(trainer: Trainer, name: str) -> None:
    """Raise a ValueError where the gradients that a callback sees are not those that the optimizer will use."""
    if trainer.accelerator.scaler is not None:
        raise ValueError(f"{name}: under fp16 the gradients are scaled when callbacks see them; use bf16 or float32")
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(f"{name}: sharded gradients (FSDP, DeepSpeed) are not supported; use one process or DDP")


def with_gradients(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """Name, parameter and gradient of what has one."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name.removeprefix("module."), parameter, parameter.grad
