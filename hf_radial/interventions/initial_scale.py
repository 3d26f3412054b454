"""Initial scale: multiply all weights before the first step.

Method: all trained parameters are multiplied by `factor` once, before training begins. Nothing is changed later.

Source: Liu et al., "Omnigrok: Grokking Beyond Algorithmic Data", arXiv 2210.01117, where a large scale delays generalisation
and a small one removes the delay.

Use: tune `factor` from 0.25 to 4, as in `initial_scale:factor=0.5`. Give it before `radial:radius=initial` has measured
anything: that radius is the one after the scaling. A second `train()` of the same model scales it again. `weight_norm` holds
the length during training, too.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import wide
from hf_radial.interventions.weight_norm import trained


@torch.no_grad()
def scale_weights(model: nn.Module, factor: float) -> None:
    """Multiply all trained parameters of a model by `factor`, in place."""
    for parameter in trained(model):
        parameter.copy_(wide(parameter) * factor)


@dataclass(eq=False)
class InitialScale(Intervention):
    """Multiplies all trained parameters before training; a run that is resumed is not scaled again."""

    name: ClassVar[str] = "initial_scale"
    swept: ClassVar[tuple[str, ...] | None] = ("factor",)
    factor: float = field(metadata={"help": "What the weights are multiplied by.", "above": 0, "example": 0.5})
    unscaled: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def change_member(self, member: Any) -> None:
        scale_weights(member.model, self.factor)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        model: Any = trainer.model
        self.unscaled = [parameter.detach().clone() for parameter in trained(model)]
        scale_weights(model, self.factor)

    @torch.no_grad()
    def resume(self, folder: Path, device: torch.device) -> None:
        for parameter, loaded in zip(trained(self.trainer.model), self.unscaled, strict=True):
            parameter.copy_(loaded)  # the weights of a checkpoint, which `begin` has scaled

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.unscaled = []
