"""Less radial energy without a change of radius: the part of the gradient along a vector is damped, the vector left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.penalty.functional import split_gradient
from hf_radial.sites.hooks import hook_sites
from hf_radial.training.rows import sites_of


class _Damped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, keep: float, dim: int) -> Tensor:
        ctx.save_for_backward(h)
        ctx.keep, ctx.dim = keep, dim
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (h,) = ctx.saved_tensors
        radial, across = split_gradient(g, h, ctx.dim)
        return (across + ctx.keep * radial).to(g.dtype), None, None


def damp_radial_gradient(h: Tensor, keep: float = 0.0, dim: int = -1) -> Tensor:
    """`h`, whose gradient `g` becomes `(I - P_r) g + keep P_r g` with `P_r = h h^T / r^2`.

    >>> h = torch.tensor([[0.0, 2.0]], requires_grad=True)
    >>> damp_radial_gradient(h, 0.5).sum().backward()
    >>> h.grad
    tensor([[1.0000, 0.5000]])
    """
    return _Damped.apply(h, keep, dim)


@dataclass(eq=False)
class RadialGradient(Intervention):
    """Damps the radial part of the gradient that arrives at every site. What is trained is thus no gradient of a loss.

    Args:
        keep: the share of the radial part that stays; 0 for none.
    """

    name: ClassVar[str] = "radial_gradient"
    keep: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep={self.keep} must be from 0 to 1")

    def attach(self, trainer: Trainer) -> None:
        model: Any = trainer.model
        hook_sites(model, sites_of(trainer), lambda site, h: damp_radial_gradient(h, self.keep, site.dim))
        super().attach(trainer)
