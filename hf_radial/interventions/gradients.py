"""What interventions on gradients have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention


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


@dataclass(eq=False)
class GradientIntervention(Intervention):
    """Changes every gradient once an optimizer step, behind clipping; `change` says how.

    Attributes:
        remembered: from step to step, by the parameter's name; empty at the start of each training.
    """

    remembered: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Change `gradient` in place."""
        raise NotImplementedError

    def attach(self, trainer: Trainer) -> None:
        check_gradients(trainer, self.name)
        super().attach(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.remembered = {}
        super().on_train_begin(args, state, control, **kwargs)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, parameter, gradient in with_gradients(kwargs["model"]):
            self.change(name, parameter, gradient)
