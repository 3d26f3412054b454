"""Egalitarian gradient descent: make all singular values of a matrix's gradient equal.

Method: before the optimizer step, the gradient `G = U S V^T` of each hidden matrix becomes `(G G^T)^(-1/2) G = U V^T`. All
directions then move at the same speed. A singular value below `floor`, or below the rounding error of the largest, is divided
by that bound instead, so that a direction without a gradient gets none.

Source: Pasand & Dohmatob, "Egalitarian Gradient Descent: A Simple Approach to Accelerated Grokking", arXiv 2510.04930; code at
github.com/asahebpa/Egalitarian-Gradient-Descent, which treats the first layer of an MLP, or the MLP matrices of a transformer.

Use: `egalitarian_gradient`, with any optimizer. It costs a singular value decomposition per matrix and step. Muon does the same
to momentum, about and with a few products; see `muon`. Embeddings, the head, biases and norms keep their gradients.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hf_radial.interventions.gradients import MatrixGradientIntervention


def egalitarian(gradient: Tensor, floor: float = 1e-6) -> Tensor:
    """`U min(S / floor, 1) V^T` of the gradient `U S V^T`, a matrix in float32 or better.

    The floor is at least the rounding error of the largest singular value. A gradient that is not finite is returned as it is.

    >>> egalitarian(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    finite = gradient.isfinite().all()
    u, s, vh = torch.linalg.svd(torch.where(finite, gradient, 0.0), full_matrices=False)
    rounding = s[0] * max(gradient.shape) * torch.finfo(gradient.dtype).eps
    equal = (u * (s / rounding.clamp(min=floor).maximum(s))) @ vh
    # Rows and columns of zeros stay so. As rounding errors, an optimizer such as Adam would give them steps of full length.
    equal = equal * (gradient != 0).any(0) * (gradient != 0).any(1, keepdim=True)
    return torch.where(finite, equal, gradient)


@dataclass(eq=False)
class EgalitarianGradient(MatrixGradientIntervention):
    """Gives the gradient of each hidden matrix equal singular values, once an optimizer step, after clipping."""

    name: ClassVar[str] = "egalitarian_gradient"
    floor: float = field(default=1e-6, metadata={"help": "Singular values below this are divided by it.", "above": 0})

    def changed(self, gradient: Tensor, axis: int) -> Tensor:
        return egalitarian(gradient, self.floor)
