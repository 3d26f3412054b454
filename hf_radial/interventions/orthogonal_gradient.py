"""The orthogonal gradient: nothing of a gradient points along its weight (Prieto et al., arXiv 2501.04697, section 5).

The authors' code: github.com/LucasPrietoAl/grokking-at-the-edge-of-numerical-stability, there a wrapper around an optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hf_radial.interventions.gradients import GradientIntervention

TINY = 1e-30


@torch.no_grad()
def orthogonal(gradient: Tensor, weight: Tensor) -> Tensor:
    """`g - (w.g / w.w) w`, as long as `g` was; both taken as one long vector."""
    g, w = gradient.flatten(), weight.flatten()
    across = g - (torch.dot(w, g) / (torch.dot(w, w) + TINY)) * w
    return (across * (g.norm() / (across.norm() + TINY))).view_as(gradient)


@dataclass(eq=False)
class OrthogonalGradient(GradientIntervention):
    """Takes from the gradient of each parameter tensor the part along it, before the optimizer, which may be any."""

    name: ClassVar[str] = "orthogonal_gradient"

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        gradient.copy_(orthogonal(gradient, parameter))
