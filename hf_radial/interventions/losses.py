"""What interventions on the loss have in common: the loss of each position of a batch, and its mean over an optimizer step.

The trainer's `compute_loss_func` becomes a `LogitLoss`. It adds up the loss of the positions that count, and divides by their
number in the whole optimizer step, as `Trainer` gives it. The gradient therefore does not depend on how the step is split into
micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_radial.interventions.base import Intervention, interventions_of
from hf_radial.interventions.gradients import wide

IGNORED = -100


@dataclass(eq=False)
class LossIntervention(Intervention):
    """Replaces the cross-entropy of a model with class or next-token logits, or adds a term to it.

    Attributes:
        replaces: whether `of_positions` takes the place of the cross-entropy. Otherwise it is added.
    """

    replaces: ClassVar[bool] = False

    def of_positions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each position, shape `(positions,)`, in float32 or better.

        Args:
            logits: shape `(positions, classes)`.
            labels: shape `(positions,)`; some class where the position does not count.
        """
        raise NotImplementedError

    def check(self, trainer: Trainer) -> None:
        loss = trainer.compute_loss_func
        own = loss is not None and not isinstance(loss, LogitLoss)
        if own or trainer.label_smoother is not None:
            raise ValueError(f"{self.name}: the trainer has a loss of its own (compute_loss_func or label smoothing); use one")
        parts = loss.parts if isinstance(loss, LogitLoss) else ()
        if self.trainer is trainer and self not in parts:
            raise ValueError(f"{self.name}: the trainer's compute_loss_func was taken away after it; leave one of them out")
        other = next((part.name for part in parts if part.replaces and part is not self), None)
        if self.replaces and other is not None:
            raise ValueError(f"{self.name}: {other} has replaced the cross-entropy already; use one of them")

    def put_in_force(self, model: Any) -> None:
        if self.trainer is not None:
            others = [one for one in interventions_of(self.trainer) if isinstance(one, LossIntervention) and one is not self]
            self.trainer.compute_loss_func = LogitLoss(predicts_the_next(model), [*others, self])


class LogitLoss:
    """The loss of a trainer with such interventions, as `Trainer` calls its `compute_loss_func`.

    Args:
        shift: whether the answer of a position is the label of the next.
        parts: the interventions; at most one of them replaces the cross-entropy.
    """

    def __init__(self, shift: bool, parts: Sequence[LossIntervention]) -> None:
        self.shift, self.parts = shift, tuple(parts)

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss, a scalar in float32 or better.

        Args:
            outputs: of the model, with `logits` of shape `(..., classes)`.
            labels: class numbers of shape `(...)`; positions with -100 do not count.
            num_items_in_batch: the sum is divided by this; `None` for the number of labels that count.

        Raises:
            ValueError: there are no labels, or they are no class numbers.
        """
        names = ", ".join(part.name for part in self.parts)
        if labels is None:
            raise ValueError(f"{names}: the batch has no labels")
        logits = outputs["logits"]
        if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
            raise ValueError(
                f"{names}: labels of shape {tuple(labels.shape)} and type {labels.dtype} are no class numbers for logits of "
                f"shape {tuple(logits.shape)}; use a model with one class a position"
            )
        if self.shift:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        return mean_loss(logits, labels, self.parts, num_items_in_batch)


def mean_loss(logits: Tensor, labels: Tensor, parts: Sequence[LossIntervention], items: Tensor | int | None = None) -> Tensor:
    """Sum over the positions that count, of the cross-entropy or what replaces it and of all terms, divided by `items`.

    Args:
        logits: shape `(..., classes)`.
        labels: shape `(...)`; positions with -100 do not count.
        parts: the interventions.
        items: `None` for the number of labels that count.
    """
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).to(logits.device)
    ignored = labels == IGNORED
    labels = labels.masked_fill(ignored, 0)
    replaced = any(part.replaces for part in parts)
    values = [part.of_positions(logits, labels) for part in parts]
    if not replaced:
        values.append(F.cross_entropy(wide(logits), labels, reduction="none"))
    total = torch.stack([value.masked_fill(ignored, 0.0).sum() for value in values]).sum()
    return total / ((~ignored).sum().clamp(min=1) if items is None else items)


def predicts_the_next(model: Any) -> bool:
    """Whether the answer of a position is the label of the next, as in a causal language model."""
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return getattr(model, "loss_type", None) == "ForCausalLM" or type(model).__name__ in causal
