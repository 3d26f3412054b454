"""All weights together kept at a length (Liu et al., "Omnigrok", arXiv 2210.01117; github.com/KindXiaoming/Omnigrok)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Length of all parameters as one vector, a float64 scalar."""
    return torch.stack([p.detach().double().square().sum() for p in parameters]).sum().sqrt()


@torch.no_grad()
def rescale(parameters: Sequence[Tensor], norm: Tensor | float, only_above: bool = False) -> None:
    """Multiply all parameters by one number, so that their length is `norm`; with `only_above`, where it is longer."""
    factor = norm / total_norm(parameters)
    if only_above:
        factor = torch.as_tensor(factor).clamp(max=1.0)
    for p in parameters:
        p.mul_(torch.as_tensor(factor).to(p.device, p.dtype))


def trained(model: Any) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


@dataclass(eq=False)
class WeightNorm(Intervention):
    """Before the first step and after each, the weights are rescaled to `factor` times their length at the start.

    Args:
        factor: above 0; 1 holds the initial length.
        only_above: only where they are longer: a clamp.
    """

    name: ClassVar[str] = "weight_norm"
    factor: float = 1.0
    only_above: bool = False
    initial: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor={self.factor} must be above 0")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.initial = total_norm(trained(kwargs["model"]))
        super().on_train_begin(args, state, control, **kwargs)
        if state.global_step == 0:  # a run that goes on has them so, and a second rounding would be one too many
            rescale(trained(kwargs["model"]), self.factor * self.initial, self.only_above)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.initial is not None:
            rescale(trained(kwargs["model"]), self.factor * self.initial, self.only_above)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.initial is None else {"initial": self.initial}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.initial = tensors["initial"]
