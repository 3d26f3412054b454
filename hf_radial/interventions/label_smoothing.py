"""Label smoothing: give a share of each label to all classes.

Method: the loss of a position is `(1 - factor) * -log p(label) + factor * mean over classes of -log p`. It replaces the model's
loss in training and in evaluation. Logits then have a finite best length.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567. `label_smoothing_factor`
of `TrainingArguments` is the same formula. This one weighs micro-batches of unequal size correctly in every model, and computes
in float32 where the logits have half precision.

Use: start with `label_smoothing:factor=0.1`, the authors' choice, for models with class or next-token logits. The trainer must
have no loss of its own.

Saved model: weights alone. `from_pretrained` gives the model that was trained; its own `loss` is the usual cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from hf_radial.interventions.gradients import wide
from hf_radial.interventions.losses import LossIntervention


@dataclass(eq=False)
class LabelSmoothing(LossIntervention):
    """Replaces the cross-entropy, in training and in evaluation."""

    name: ClassVar[str] = "label_smoothing"
    replaces: ClassVar[bool] = True
    factor: float = field(
        default=0.1, metadata={"help": "Share of each label that goes to all classes alike.", "at_least": 0, "below": 1}
    )

    def of_positions(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(wide(logits), labels, reduction="none", label_smoothing=self.factor)
