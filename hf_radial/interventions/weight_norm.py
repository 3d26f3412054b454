"""Weight norm: keep all weights together at one length.

Method: before the first step and after each, all trained parameters are multiplied by one number, so that their length as one
vector is `factor` times what it was at the start; with `only_above`, only where they are longer.

Source: Liu et al., "Omnigrok: Grokking Beyond Algorithmic Data", arXiv 2210.01117; code at github.com/KindXiaoming/Omnigrok.

Use: tune `factor` from 0.2 to 1.2, with no weight decay at first. Rounded weights hold the length only about: in bfloat16 to
0.1 %.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import wide


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Length of all parameters as one vector, a float64 scalar."""
    return torch.stack([p.detach().double().square().sum() for p in parameters]).sum().sqrt()


@torch.no_grad()
def rescale(parameters: Sequence[Tensor], norm: Tensor | float, only_above: bool = False) -> None:
    """Multiply all parameters by one number, so that their length is `norm`; with `only_above`, only if they are longer.

    Parameters that are all zero stay.
    """
    length = total_norm(parameters)
    factor = torch.where(length > 0, norm / length, 1.0)
    if only_above:
        factor = factor.clamp(max=1.0)
    for p in parameters:
        p.copy_(wide(p) * factor.to(p.device, wide(p).dtype))


def trained(model: Any) -> list[Tensor]:
    """The parameters that are trained."""
    return [p for p in model.parameters() if p.requires_grad]


@dataclass(eq=False)
class WeightNorm(Intervention):
    """Before the first step and after each, rescales the weights to `factor` times their length at the start."""

    name: ClassVar[str] = "weight_norm"
    remembers: ClassVar[str] = "the length of the weights at the start"
    factor: float = field(
        default=1.0,
        metadata={"help": "The length that is held, as a multiple of that at the start.", "above": 0, "example": 0.8},
    )
    only_above: bool = field(default=False, metadata={"help": "Whether shorter weights are left alone: a clamp."})
    initial: Tensor | None = field(default=None, init=False, repr=False)

    def begin(self, trainer: Trainer) -> None:
        self.initial = None
        super().begin(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.initial is None:  # a run that is resumed has its own, and weights of that length
            self.initial = total_norm(trained(kwargs["model"]))
            rescale(trained(kwargs["model"]), self.factor * self.initial, self.only_above)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.initial is not None:
            rescale(trained(kwargs["model"]), self.factor * self.initial, self.only_above)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.initial is None else {"initial": self.initial}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.initial = tensors["initial"]
