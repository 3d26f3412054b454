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
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_radial.interventions.base import Intervention

IGNORED = -100


def log_stablemax(logits: Tensor) -> Tensor:
    """`log(s(x_i) / sum_j s(x_j))` over the last axis, in float64 as the authors have it.

    >>> log_stablemax(torch.tensor([1.0, -1.0, 0.0])).exp()  # of 2, 1/2 and 1
    tensor([0.5714, 0.1429, 0.2857], dtype=torch.float64)
    """
    x = logits.double()
    # Each branch gets only its own values, so that the gradient of the other stays away from its pole.
    log_s = torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x.clamp(max=0)).log1p())
    return log_s - log_s.logsumexp(-1, keepdim=True)


def stablemax_loss(logits: Tensor, labels: Tensor, items: Tensor | int | None = None, shift: bool = False) -> Tensor:
    """Cross-entropy of `log_stablemax`.

    Args:
        logits: shape `(..., classes)`.
        labels: shape `(...)`; positions with -100 do not count.
        items: the sum is divided by this; `None` for the number of labels that count.
        shift: whether the answer of a position is the label of the next.
    """
    if shift:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    labels = labels.reshape(-1).to(logits.device)
    log_p = log_stablemax(logits.reshape(-1, logits.shape[-1]))
    total = F.nll_loss(log_p, labels, ignore_index=IGNORED, reduction="sum")
    return total / ((labels != IGNORED).sum().clamp(min=1) if items is None else items)


@dataclass(eq=False)
class StableMax(Intervention):
    """Replaces the loss of a model with class or next-token logits, in training and in evaluation."""

    name: ClassVar[str] = "stablemax"

    def check(self, trainer: Trainer) -> None:
        loss = trainer.compute_loss_func
        others = loss is not None and not (isinstance(loss, partial) and loss.func is loss_of_outputs)
        if others or trainer.label_smoother is not None:
            raise ValueError("stablemax: the trainer has a loss of its own (compute_loss_func or label smoothing); use one")
        if self.trainer is trainer and loss is None:
            raise ValueError("stablemax: the trainer's compute_loss_func was taken away after it; leave one of them out")

    def put_in_force(self, model: Any) -> None:
        if self.trainer is not None:
            causal = (
                getattr(model, "loss_type", None) == "ForCausalLM"
                or type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
            )
            self.trainer.compute_loss_func = partial(loss_of_outputs, causal)


def loss_of_outputs(
    causal: bool, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """As `Trainer` calls its `compute_loss_func`."""
    if labels is None:
        raise ValueError("stablemax: the batch has no labels")
    return stablemax_loss(outputs["logits"], labels, num_items_in_batch, shift=causal)
