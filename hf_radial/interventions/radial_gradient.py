"""Radial gradient: damp the part of the gradient that points along a vector, and leave the vector alone.

Method: of the gradient that arrives at the vectors of every site, the radial part `P_r g` with `P_r = h h^T / r^2` is
multiplied by `keep`. What is trained is then the gradient of no loss.

Source: this package's control. It lowers the radial energy of arXiv 2606.32000 without a force on the radius.

Use: `radial_gradient`, or `radial_gradient:keep=0.5` for half of the radial part.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.penalty.functional import split_gradient
from hf_radial.sites.hooks import hook_sites, unhook
from hf_radial.sites.site import Site
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
    """Damps the radial part of the gradient that arrives at every site, in training."""

    name: ClassVar[str] = "radial_gradient"
    keep: float = field(default=0.0, metadata={"help": "Share of the radial part that stays.", "at_least": 0, "at_most": 1})

    def check(self, trainer: Trainer) -> None:
        if self.trainer is not trainer:
            sites_of(trainer)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)

        def damped(site: Site, h: Tensor) -> Tensor:
            return damp_radial_gradient(h, self.keep, site.dim)

        model: Any = trainer.model
        hook_sites(model, sites_of(trainer), damped, self.name, only_training=True)

    def end(self, trainer: Trainer) -> None:
        if trainer.model is not None:
            unhook(trainer.model, self.name)
