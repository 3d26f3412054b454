"""Spectral regularisation: pull the largest singular value of each matrix towards 1.

Method: adds `strength * sum over matrices of (sigma_1(W)^2 - 1)^2` to the loss, as a gradient. A step of the power method in
each optimizer step keeps up the estimate of the singular vectors.

Source: Lewandowski et al., "Learning Continually by Spectral Regularization", arXiv 2406.06811 (with k = 2). The authors also
pull biases towards 0. This one leaves them alone.

Use: start with `spectral_penalty:strength=1e-3`, in a sequence of tasks, and tune it from 1e-5 to 1e-1 together with the
learning rate.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_radial.interventions.gradients import GradientIntervention, wide


def power_step(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the power method: new left and right singular vector and `sigma = u^T W v`.

    Args:
        matrix: `(..., out, in)`.
        u: `(..., out)`, of length 1.
    """
    v = F.normalize((matrix.mT @ u.unsqueeze(-1)).squeeze(-1), dim=-1, eps=1e-12)
    product = (matrix @ v.unsqueeze(-1)).squeeze(-1)
    u = F.normalize(product, dim=-1, eps=1e-12)
    return u, v, (u * product).sum(-1)


def spectral_gradient(u: Tensor, v: Tensor, sigma: Tensor, strength: float | Tensor) -> Tensor:
    """Gradient of `strength * (sigma^2 - 1)^2` with respect to the matrix: `4 strength sigma (sigma^2 - 1) u v^T`.

    >>> u, v, sigma = power_step(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 0.0]))
    >>> spectral_gradient(u, v, sigma, 0.5)
    tensor([[12.,  0.],
            [ 0.,  0.]])
    """
    return (strength * 4 * sigma * (sigma.square() - 1)).unsqueeze(-1).unsqueeze(-1) * u.unsqueeze(-1) * v.unsqueeze(-2)


def first_vector(matrix: Tensor) -> Tensor:
    """Where the power method starts: the same direction for every matrix of a shape, so that a run can be repeated."""
    return torch.full(matrix.shape[:-1], matrix.shape[-2] ** -0.5, dtype=wide(matrix).dtype, device=matrix.device)


@dataclass(eq=False)
class SpectralPenalty(GradientIntervention):
    """Adds the gradient of the spectral penalty to that of each matrix, after clipping."""

    name: ClassVar[str] = "spectral_penalty"
    remembers: ClassVar[str] = "the estimates of the singular vectors"
    strength: float = field(metadata={"help": "Weight of the penalty.", "at_least": 0, "example": 0.001})

    @torch.no_grad()
    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        if parameter.ndim != 2:
            return
        matrix = wide(parameter.detach())
        u = self.remembered.get(name)
        u, v, sigma = power_step(matrix, first_vector(matrix) if u is None else u)
        self.remembered[name] = u
        gradient.add_(spectral_gradient(u, v, sigma, self.strength).to(gradient.dtype))

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        rows = {name.removeprefix("module."): p.shape[:1] for name, p in self.trainer.model.named_parameters()}
        for name, tensor in tensors.items():
            if rows.get(name) != tensor.shape:
                raise ValueError(f"{name} has {len(tensor)} numbers there, and {rows.get(name)} rows in the model")
        self.remembered = dict(tensors)
