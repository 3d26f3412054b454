"""Jacobian: a penalty on how strongly the logits depend on the embedded inputs.

Method: adds `strength * mean over rows of ||J||` to the loss while the model trains, where `J` is the Jacobian of a row's
logits with respect to its embedded tokens. Its Frobenius norm is estimated with one random direction `v` of length 1 a row:
`||J||^2 = classes * E ||J^T v||^2`. The gradient goes through the estimate.

Source: Walker et al., "GrokAlign: Geometric Characterisation and Acceleration of Grokking", arXiv 2506.12284; code at
github.com/mitchell-solomon/grokalign. A later version of the authors' method adds a penalty on the offset, which is left out.

Use: start with `jacobian:strength=1e-3`, the authors' choice for a transformer on modular addition. It is for models that
classify whole rows of tokens, in one process. It differentiates twice, so a transformer needs `attn_implementation="eager"`.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer

from hf_radial.interventions.gradients import wide
from hf_radial.interventions.losses import LossIntervention, predicts_the_next
from hf_radial.sites.hooks import Hook, unhook

SMALLEST = 1e-8  # of the squared norm, as the authors have it: the square root has no gradient at 0


def jacobian_norms(logits: Tensor, inputs: Tensor, directions: Tensor) -> Tensor:
    """Estimated Frobenius norm of the Jacobian of each row, shape `(rows,)`, in float32 or better.

    Args:
        logits: shape `(rows, classes)`, computed from `inputs`.
        inputs: shape `(rows, ...)`; a row of logits depends on its own row of inputs alone.
        directions: shape `(rows, classes)`, each of length 1.

    >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> round(jacobian_norms(3 * x, x, torch.tensor([[1.0, 0.0]])).item() ** 2, 3)  # of 3 times the identity: 9 + 9
    18.0
    """
    (back,) = torch.autograd.grad(logits, inputs, directions.to(logits.dtype), create_graph=True)
    return (logits.shape[-1] * wide(back).flatten(1).square().sum(1)).clamp(min=SMALLEST).sqrt()


def _embedded(one: Jacobian, module: Any, args: Any, output: Tensor) -> None:
    one.inputs = output


@dataclass(eq=False)
class Jacobian(LossIntervention):
    """Adds the estimated norm of the Jacobian to the loss, in training."""

    name: ClassVar[str] = "jacobian"
    strength: float = field(default=1e-3, metadata={"help": "Weight of the Jacobian's norm.", "at_least": 0})
    inputs: Tensor | None = field(default=None, init=False, repr=False)

    def check(self, trainer: Trainer) -> None:
        super().check(trainer)
        model: Any = trainer.model
        if predicts_the_next(model) or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise ValueError(f"{self.name}: {type(model).__name__} has logits at each position; use one that classifies rows")
        if not isinstance(model.get_input_embeddings(), nn.Embedding):
            raise ValueError(f"{self.name}: {type(model).__name__} has no nn.Embedding for its inputs")
        attention = getattr(model.config, "_attn_implementation", None)
        if attention not in (None, "eager"):
            raise ValueError(
                f"{self.name}: attention of kind {attention!r} cannot be differentiated twice; load the model with "
                'attn_implementation="eager"'
            )
        if trainer.args.world_size > 1 or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(f"{self.name}: it differentiates within the forward pass, for which it needs a single process")

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        model: Any = trainer.model
        unhook(model, self.name)
        model.get_input_embeddings().register_forward_hook(Hook(partial(_embedded, self), self.name))

    def end(self, trainer: Trainer) -> None:
        self.inputs = None
        if trainer.model is not None:
            unhook(trainer.model, self.name)

    def of_positions(self, logits: Tensor, labels: Tensor) -> Tensor:
        inputs, self.inputs = self.inputs, None
        if inputs is None or not torch.is_grad_enabled() or not inputs.requires_grad:
            return wide(logits.new_zeros(len(logits)))
        directions = F.normalize(torch.randn_like(logits, dtype=wide(logits).dtype), dim=-1)
        return self.strength * jacobian_norms(logits, inputs, directions)
