"""nGPT for an MLP: weights and representations on the unit sphere.

Method: the rows of every matrix, of the embedding too, have length 1 before the first step and after each; what a layer reads
has length 1; hidden units and logits have learned scales; there is no weight decay. Three parts of nGPT are left out: attention
and the interpolation of the residual stream, which an MLP lacks, and the schedule without warm-up. Biases, which nGPT has none
of, are kept.

Source: after Loshchilov et al., "nGPT: Normalized Transformer with Representation Learning on the Hypersphere", arXiv
2410.01131.

Use: `ngpt`. It is an option of the model, so the model must be made with it: call `hf_radial.interventions.configure(config,
["ngpt"])` before the model is made, in `model_init` too. Only `ModularMLPConfig` has the option. Expect to tune the learning
rate again.

Saved model: normalised weights, and a configuration that says how they are read. `from_pretrained` gives the model that was
trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import wide
from hf_radial.interventions.layer_norm import check_normalization, set_normalization
from hf_radial.interventions.optim import check_argument, check_no_optimizer


@torch.no_grad()
def normalise_rows(model: Any) -> None:
    """Give the rows of embedding, hidden layers and classifier length 1; a row of zeros stays."""
    for layer in (model.embedding, *model.hidden, model.classifier):
        layer.weight.copy_(F.normalize(wide(layer.weight), dim=-1))


@dataclass(eq=False)
class NGPT(Intervention):
    """An option of the model, and a normalisation after each step."""

    name: ClassVar[str] = "ngpt"

    def configure(self, config: Any) -> None:
        set_normalization(config, "ngpt", self.name)

    def check(self, trainer: Trainer) -> None:
        check_normalization(trainer, "ngpt", self.name)
        if self.trainer is trainer:
            check_argument(trainer, self.name, "weight_decay", 0.0)

    def attach(self, trainer: Trainer) -> None:
        self.check(trainer)
        check_no_optimizer(trainer, self.name)  # it would have its weight decay already
        trainer.args.weight_decay = 0.0
        super().attach(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if state.global_step == 0:  # the weights of a checkpoint are normalised, and a second rounding would change them
            normalise_rows(kwargs["model"])

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        normalise_rows(kwargs["model"])
