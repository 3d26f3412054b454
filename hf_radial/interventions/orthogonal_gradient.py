"""The orthogonal gradient: nothing of a gradient points along its weight (Prieto et al., arXiv 2501.04697, section 5).

The authors' code: github.com/LucasPrietoAl/grokking-at-the-edge-of-numerical-stability, there a wrapper around an optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import check_gradients, with_gradients

TINY = 1e-30


@torch.no_grad()
def orthogonal(gradient: Tensor, weight: Tensor) -> Tensor:
    """`g - (w.g / w.w) w`, as long as `g` was; both taken as one long vector."""
    g, w = gradient.flatten(), weight.flatten()
    across = g - (torch.dot(w, g) / (torch.dot(w, w) + TINY)) * w
    return (across * (g.norm() / (across.norm() + TINY))).view_as(gradient)


@dataclass(eq=False)
class OrthogonalGradient(Intervention):
    """Takes from the gradient of each parameter tensor the part along it, before the optimizer, which may be any."""

    name: ClassVar[str] = "orthogonal_gradient"

    def attach(self, trainer: Trainer) -> None:
        check_gradients(trainer, self.name)
        super().attach(trainer)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for _, parameter, gradient in with_gradients(kwargs["model"]):
            gradient.copy_(orthogonal(gradient, parameter))
