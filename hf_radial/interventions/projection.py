"""Projection: put the vectors at every site on the sphere.

Method: each vector `h` becomes `R h / ||h||`, in training and in evaluation. `mode=tangential` has the gradient of that
function, `R / r (I - h_hat h_hat^T)`. It makes the layer before it scale-invariant, so that a step can only make its weights
longer. `mode=straight_through` lets the gradient pass as if nothing had been projected. The two are different algorithms.

Source: the limit of the hypersphere penalty (arXiv 2606.32000) as its weight grows.

Use: `projection`, with the penalty's radius `sqrt(d)`; then tune `radius`, from 1 to a few times `sqrt(d)`.

Saved model: weights, which do not project. Call `hf_radial.interventions.restore(model)` after `from_pretrained`, and the model
is the one that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.options import describe
from hf_radial.penalty.functional import check_radius, radius
from hf_radial.sites.find import find_sites
from hf_radial.sites.hooks import ModelHook, hook_sites, unhook
from hf_radial.sites.site import Site
from hf_radial.training.rows import sites_of

MODES = ("tangential", "straight_through")


def project_to_sphere(h: Tensor, target: float | None = None, mode: str = "tangential", dim: int = -1) -> Tensor:
    """`R h / r`, in `h`'s dtype; a zero vector stays where it is.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`.
        target: the radius `R`; `None` for `sqrt(d)`.
        mode: whose gradient: "tangential" or "straight_through".
        dim: the channel axis.

    Raises:
        ValueError: `target` is not positive, or `mode` is unknown.

    >>> import torch
    >>> project_to_sphere(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 10.0)
    tensor([[6., 8.],
            [0., 0.]])
    """
    check_radius(target)
    if mode not in MODES or target == 0:
        raise ValueError(f"mode={mode!r} must be one of {', '.join(MODES)}, and target={target} above 0")
    r = radius(h, dim).unsqueeze(dim)
    r = r.masked_fill(r < torch.finfo(r.dtype).tiny, 1.0)  # a vector of no length has no direction
    wanted = sqrt(h.shape[dim]) if target is None else target
    wide = h.to(r.dtype)
    projected = wide * (wanted / r)
    if mode == "straight_through":
        projected = wide + (projected - wide).detach()
    return projected.to(h.dtype)


def on_sphere(target: float | None, mode: str, site: Site, h: Tensor) -> Tensor:
    """As `hook_sites` calls it."""
    return project_to_sphere(h, target, mode, site.dim)


@dataclass(eq=False)
class Projection(Intervention):
    """Projects the vectors at every site, in training and in evaluation."""

    name: ClassVar[str] = "projection"
    mode: str = field(default="tangential", metadata={"help": "Whose gradient goes through the projection.", "choices": MODES})
    radius: float = field(default=0.0, metadata={"help": "Of the sphere; 0 for the paper's sqrt(d).", "at_least": 0})

    def put_in_force(self, model: Any) -> None:
        unhook(model, self.name)
        trainer = self.trainer
        sites = find_sites(model) if trainer is None or trainer.model is not model else sites_of(trainer)
        hook_sites(model, sites, partial(on_sphere, self.radius or None, self.mode), self.name, ModelHook)

    def text_to_restore(self) -> str:
        return describe(self)
