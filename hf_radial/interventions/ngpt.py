"""nGPT for an MLP: weights and representations on the unit sphere (Loshchilov et al., arXiv 2410.01131).

What is taken over: the rows of every matrix, of the embedding too, have length 1 after each step; what a layer reads has length
1; hidden units and logits have learned scales; there is no weight decay. What is not: attention and the interpolation of the
residual stream, which an MLP lacks, and their schedule without warm-up; biases, which nGPT has none of, are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.layer_norm import check_normalization, set_normalization
from hf_radial.interventions.optim import check_no_optimizer


@torch.no_grad()
def normalise_rows(model: Any) -> None:
    """Give the rows of embedding, hidden layers and classifier length 1."""
    for layer in (model.embedding, *model.hidden, model.classifier):
        layer.weight.copy_(F.normalize(layer.weight, dim=-1))


@dataclass(eq=False)
class NGPT(Intervention):
    """A model option, and a normalisation after each step."""

    name: ClassVar[str] = "ngpt"

    def configure(self, config: Any) -> None:
        set_normalization(config, "ngpt", self.name)

    def attach(self, trainer: Trainer) -> None:
        check_normalization(trainer, "ngpt", self.name)
        check_no_optimizer(trainer, self.name)  # it would have its weight decay already
        trainer.args.weight_decay = 0.0
        super().attach(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 0:  # a run that goes on has them so, and a second rounding would be one too many
            normalise_rows(kwargs["model"])
        super().on_train_begin(args, state, control, **kwargs)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        normalise_rows(kwargs["model"])
