"""StableMax: a softmax whose exponential is replaced by a function that grows no faster than a line.

Method: `s(x) = x + 1` for `x >= 0` and `1 / (1 - x)` below (Eq. 5); the loss is the cross-entropy of `s(x_i) / sum_j s(x_j)`,
computed in float64. It replaces the model's loss in training and in evaluation.

Source: Prieto et al., "Grokking at the Edge of Numerical Stability", arXiv 2501.04697; code at
github.com/LucasPrietoAl/grokking-at-the-edge-of-numerical-stability.

Use: `stablemax`, for models with class or next-token logits. It has no options. The trainer must have no loss of its own.
An encoder-decoder needs `decoder_input_ids` in its rows, as `DataCollatorForSeq2Seq(tokenizer, model=model)` makes them.

Saved model: weights alone. `from_pretrained` gives the model that was trained; its own `loss` is the usual cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_radial.interventions.losses import LossIntervention


def log_stablemax(logits: Tensor) -> Tensor:
    """`log(s(x_i) / sum_j s(x_j))` over the last axis, in float64 as the authors have it.

    >>> log_stablemax(torch.tensor([1.0, -1.0, 0.0])).exp()  # of 2, 1/2 and 1
    tensor([0.5714, 0.1429, 0.2857], dtype=torch.float64)
    """
    x = logits.double()
    # Each branch gets only its own values, so that the gradient of the other stays away from its pole.
    log_s = torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x.clamp(max=0)).log1p())
    return log_s - log_s.logsumexp(-1, keepdim=True)


@dataclass(eq=False)
class StableMax(LossIntervention):
    """Replaces the cross-entropy, in training and in evaluation."""

    name: ClassVar[str] = "stablemax"
    replaces: ClassVar[bool] = True

    def of_positions(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -log_stablemax(logits).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
