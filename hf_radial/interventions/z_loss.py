"""Z-loss: pull the normaliser of the softmax towards 1.

Method: adds `strength * mean of (log Z)^2` to the loss, where `Z` is the sum of the exponentials of a position's logits; in
training and in evaluation. Logits then have no free offset, and their length costs something.

Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", arXiv 2204.02311, section 5; there the strength is
1e-4.

Use: start with `z_loss:strength=1e-4`, for models with class or next-token logits. The trainer must have no loss of its own.

Saved model: weights alone. `from_pretrained` gives the model that was trained; its own `loss` is the usual cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from hf_radial.interventions.gradients import wide
from hf_radial.interventions.losses import LossIntervention


def squared_log_normaliser(logits: Tensor) -> Tensor:
    """`(log sum_j exp x_j)^2` over the last axis, in float32 or better.

    >>> import torch
    >>> squared_log_normaliser(torch.zeros(1))  # Z is 1
    tensor(0.)
    """
    return wide(logits).logsumexp(-1).square()


@dataclass(eq=False)
class ZLoss(LossIntervention):
    """Adds the squared logarithm of the normaliser to the loss, in training and in evaluation."""

    name: ClassVar[str] = "z_loss"
    strength: float = field(default=1e-4, metadata={"help": "Weight of (log Z)^2.", "at_least": 0})

    def of_positions(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.strength * squared_log_normaliser(logits)
