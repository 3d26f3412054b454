"""L2 to the initial weights: pull each weight back to where it started.

Method: adds `strength * ||theta - theta_0||^2` to the loss, over all trained parameters, as a gradient.

Source: Kumar et al., "Maintaining Plasticity in Continual Learning via Regenerative Regularization", arXiv 2308.11958.

Use: start with `l2_init:strength=1e-3`, in a sequence of tasks, and tune it from 1e-5 to 1e-1 together with the learning rate.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_radial.interventions.gradients import GradientIntervention, wide


def l2_init_gradient(parameter: Tensor, initial: Tensor, strength: float | Tensor) -> Tensor:
    """Gradient of `strength * ||theta - theta_0||^2`.

    >>> l2_init_gradient(torch.tensor([3.0]), torch.tensor([1.0]), 0.5)
    tensor([2.])
    """
    return 2 * strength * (wide(parameter) - initial)


@dataclass(eq=False)
class L2Init(GradientIntervention):
    """Adds the gradient of the squared distance from the weights at the start of training, after clipping."""

    name: ClassVar[str] = "l2_init"
    remembers: ClassVar[str] = "the weights at the start of training"
    strength: float = field(metadata={"help": "Weight of the squared distance.", "at_least": 0, "example": 0.001})

    @torch.no_grad()
    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        initial: Any = self.remembered.get(name)
        if initial is None:  # before the first step
            initial = self.remembered[name] = wide(parameter.detach()).clone()
        gradient.add_(l2_init_gradient(parameter, initial, self.strength).to(gradient.dtype))
