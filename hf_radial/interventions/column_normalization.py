"""Column normalisation: give the gradient of each hidden unit the same length.

Method: before the optimizer step, the gradient of the weights that lead into each unit of a hidden layer is divided by its
length, or by `floor` where it is shorter. It is the cheap relative of `egalitarian_gradient`.

Source: Pasand & Dohmatob, "Egalitarian Gradient Descent: A Simple Approach to Accelerated Grokking", arXiv 2510.04930; code at
github.com/asahebpa/Egalitarian-Gradient-Descent, where a unit's weights are a column, and the floor is 0.01.

Use: `column_normalization`, with any optimizer. Embeddings, the head, biases and norms keep their gradients.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.linalg import vector_norm

from hf_radial.interventions.gradients import MatrixGradientIntervention


def normalised_units(gradient: Tensor, axis: int = 1, floor: float = 0.01) -> Tensor:
    """The gradient divided by its length along `axis`, where that is `floor` or more, and by `floor` elsewhere.

    >>> import torch
    >>> normalised_units(torch.tensor([[3.0, 4.0], [0.0, 0.005]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.5000]])
    """
    return gradient / vector_norm(gradient, dim=axis, keepdim=True).clamp(min=floor)


@dataclass(eq=False)
class ColumnNormalization(MatrixGradientIntervention):
    """Gives the gradient of each hidden unit length 1, once an optimizer step, after clipping."""

    name: ClassVar[str] = "column_normalization"
    floor: float = field(default=0.01, metadata={"help": "Shorter gradients are divided by this.", "above": 0})

    def changed(self, gradient: Tensor, axis: int) -> Tensor:
        return normalised_units(gradient, axis, self.floor)
