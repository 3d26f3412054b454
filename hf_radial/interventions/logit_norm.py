"""Logit norm: a penalty on the length of the logits.

Method: adds `strength * mean of ||z||^2` to the loss, where `z` is the vector of a position's logits; in training and in
evaluation.

Source: Dauphin & Cubuk, "Deconstructing the Regularization of BatchNorm", ICLR 2021, and Kornblith et al., arXiv 2010.16402,
where it is the logit penalty. Here the squared length is not divided by the number of classes.

Use: start with `logit_norm:strength=1e-3`, and tune it from 1e-5 to 1e-1, for models with class or next-token logits. The
trainer must have no loss of its own. `logit_temperature` changes the length of the logits without a penalty.

Saved model: weights alone. `from_pretrained` gives the model that was trained; its own `loss` is the usual cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from hf_radial.interventions.gradients import wide
from hf_radial.interventions.losses import LossIntervention


@dataclass(eq=False)
class LogitNorm(LossIntervention):
    """Adds the squared length of the logits to the loss, in training and in evaluation."""

    name: ClassVar[str] = "logit_norm"
    strength: float = field(metadata={"help": "Weight of the squared length.", "at_least": 0, "example": 0.001})

    def of_positions(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.strength * wide(logits).square().sum(-1)
