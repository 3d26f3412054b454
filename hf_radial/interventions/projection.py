"""Hard projection onto the sphere: what the penalty becomes as its weight grows, and a different algorithm.

Tangential: the projection's own Jacobian, `R / r (I - h_hat h_hat^T)`, which makes the layer before it scale-invariant, so that
its weights can only grow. Straight-through: the gradient passes as if nothing had happened. The two must not be confused.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

from torch import Tensor
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.penalty.functional import check_radius, radius
from hf_radial.sites.hooks import hook_sites
from hf_radial.sites.site import Site
from hf_radial.training.rows import sites_of

MODES = ("tangential", "straight_through")


def project_to_sphere(h: Tensor, target: float | None = None, mode: str = "tangential", dim: int = -1) -> Tensor:
    """`R h / r`, in `h`'s dtype; a zero vector stays where it is.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`.
        target: the radius `R`; `None` for `sqrt(d)`.
        mode: whose gradient: "tangential" or "straight_through".

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
    r = r.masked_fill(r == 0, 1.0)
    wanted = sqrt(h.shape[dim]) if target is None else target
    projected = (h.to(r.dtype) * (wanted / r)).to(h.dtype)
    return projected if mode == "tangential" else h + (projected - h).detach()


@dataclass(eq=False)
class Projection(Intervention):
    """Projects the vectors at every site, in training and in evaluation: the saved model is one of this intervention.

    Args:
        mode: "tangential" or "straight_through".
        radius: of the sphere; 0 for the paper's `sqrt(d)`.
    """

    name: ClassVar[str] = "projection"
    mode: str = "tangential"
    radius: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        check_radius(self.radius)

    def attach(self, trainer: Trainer) -> None:
        def change(site: Site, h: Tensor) -> Tensor:
            return project_to_sphere(h, self.radius or None, self.mode, site.dim)

        model: Any = trainer.model
        hook_sites(model, sites_of(trainer), change)
        super().attach(trainer)
