"""Weight decay: shrink all weights a little in each step. It is the first thing to tune.

Method: sets `weight_decay` of the trainer's arguments, which AdamW applies apart from the gradient.

Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101.

Use: start with `weight_decay:value=0.1` and go up to 1 and above on small algorithmic data. With `biases=true`, biases and the
parameters of norms decay too; `Trainer` leaves them alone. Give it before `muon`, or not with an optimizer of your own: an
optimizer that is there already has its weight decay.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.optim import check_argument, check_no_optimizer


def all_names(model: Any) -> list[str]:
    """In the place of `Trainer.get_decay_parameter_names`."""
    return [name for name, _ in model.named_parameters()]


@dataclass(eq=False)
class WeightDecay(Intervention):
    """Sets `weight_decay` of the trainer's arguments."""

    name: ClassVar[str] = "weight_decay"
    value: float = field(metadata={"help": "The weight decay.", "at_least": 0, "example": 0.1})
    biases: bool = field(default=False, metadata={"help": "Whether biases and the parameters of norms decay too."})

    def check(self, trainer: Trainer) -> None:
        if self.trainer is trainer:
            check_argument(trainer, self.name, "weight_decay", float(self.value))

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)  # it would have its weight decay already
        trainer.args.weight_decay = float(self.value)
        if self.biases:
            trainer.get_decay_parameter_names = all_names  # type: ignore[method-assign]
        super().attach(trainer)
