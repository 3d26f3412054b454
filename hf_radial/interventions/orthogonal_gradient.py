"""Orthogonal gradient: take from each gradient the part that points along its weight.

Method: before the optimizer step, each parameter tensor's gradient is projected onto the directions across the tensor, and
scaled back to its length. The weights then cannot lower the loss by growing alone.

Source: Prieto et al., "Grokking at the Edge of Numerical Stability", arXiv 2501.04697, section 5; code, there as a wrapper
around an optimizer, at github.com/LucasPrietoAl/grokking-at-the-edge-of-numerical-stability.

Use: `orthogonal_gradient`, with any optimizer. It has no options. A parameter of one number has no direction across itself: its
gradient is left alone.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hf_radial.interventions.gradients import GradientIntervention, wide

TINY = 1e-30
# A smaller share of a gradient is the rounding error of the subtraction, and scaled up it would be a random direction. Of a
# float32 gradient exactly along its weight, a share of up to 3e-7 is left with a million elements, of 2e-6 with ten million.
ROUNDING = 1e-5


@torch.no_grad()
def orthogonal(gradient: Tensor, weight: Tensor) -> Tensor:
    """`g - (w.g / w.w) w`, scaled to the length of `g`; both are taken as one long vector. In `g`'s dtype.

    Zero where `g` is along `w` up to rounding, and `g` itself where `w` is zero or a single number.
    """
    if gradient.numel() == 1:
        return gradient.clone()
    g, w = wide(gradient).flatten(), wide(weight).flatten()
    across = g - (torch.dot(w, g) / (torch.dot(w, w) + TINY)) * w
    length, left = g.norm(), across.norm()
    scaled = across * (length / (left + TINY))
    return torch.where(left > ROUNDING * length, scaled, 0.0).view_as(gradient).to(gradient.dtype)


@dataclass(eq=False)
class OrthogonalGradient(GradientIntervention):
    """Takes from the gradient of each parameter tensor the part along it, once an optimizer step, after clipping."""

    name: ClassVar[str] = "orthogonal_gradient"

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        gradient.copy_(orthogonal(gradient, parameter))
