"""Cosine head: logits that depend on directions alone, at a fixed temperature.

Method: a logit is `scale` times the cosine between what the head reads and the head's row of that class, without a bias; in
training and in evaluation. Neither the length of the representation nor that of the row has an effect.

Source: Yildirim, "The Geometric Inductive Bias of Grokking", arXiv 2603.05228: the unembedding of its spherical topology, which
also normalises the stream. In this package's MLP, that is `projection:radius=1` beside it. (`ngpt` differs: its temperature
is learned, and it also normalises the weights.) The source names no default that we could read; `scale` is 1 / temperature.

Use: tune `scale` from 5 to 50, as in `cosine_head:scale=10`, alone or after `projection:radius=1`. The head must be a linear
layer.

Saved model: weights that give other logits. Call `hf_radial.interventions.restore(model)` after `from_pretrained`, and the
model is the one that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import wide
from hf_radial.interventions.heads import head_of
from hf_radial.interventions.options import describe
from hf_radial.sites.hooks import ModelHook, unhook


def cosine_logits(h: Tensor, rows: Tensor, scale: float) -> Tensor:
    """`scale * cos(h, row)`, shape `(..., classes)`, in `h`'s dtype; 0 for a vector of zeros.

    Args:
        h: shape `(..., d)`.
        rows: shape `(classes, d)`.
        scale: the largest possible logit.

    >>> import torch
    >>> cosine_logits(torch.tensor([3.0, 4.0]), torch.tensor([[2.0, 0.0], [0.0, 0.1]]), 10)
    tensor([6., 8.])
    """
    return (scale * F.normalize(wide(h), dim=-1) @ F.normalize(wide(rows), dim=-1).T).to(h.dtype)


def _in_its_place(scale: float, head: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A hook on the head. Its bias gets a gradient of 0, so that no process waits for one."""
    logits = cosine_logits(args[0], head.weight, scale)
    return logits if head.bias is None else logits + 0 * head.bias


@dataclass(eq=False)
class CosineHead(Intervention):
    """Replaces the logits by scaled cosines, in training and in evaluation."""

    name: ClassVar[str] = "cosine_head"
    scale: float = field(metadata={"help": "What the cosines are multiplied by: 1 / temperature.", "above": 0, "example": 10})

    def check(self, trainer: Trainer) -> None:
        if not isinstance(head_of(trainer.model), nn.Linear):
            raise ValueError(f"{self.name}: the head of {type(trainer.model).__name__} is no linear layer")

    def put_in_force(self, model: Any) -> None:
        unhook(model, self.name)
        head_of(model).register_forward_hook(ModelHook(partial(_in_its_place, self.scale), self.name))

    def text_to_restore(self) -> str:
        return describe(self)
