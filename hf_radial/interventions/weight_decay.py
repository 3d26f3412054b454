"""Weight decay, decoupled as in AdamW (Loshchilov & Hutter, arXiv 1711.05101): the first thing to tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.optim import check_no_optimizer


@dataclass(eq=False)
class WeightDecay(Intervention):
    """Sets `weight_decay` of the trainer's arguments.

    Args:
        value: at least 0.
        biases: decay every parameter, also biases and the parameters of norms, which `Trainer` leaves alone.
    """

    name: ClassVar[str] = "weight_decay"
    value: float
    biases: bool = False

    def __post_init__(self) -> None:
        if not self.value >= 0:
            raise ValueError(f"value={self.value} must be at least 0")

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)  # it would have its weight decay already
        trainer.args.weight_decay = float(self.value)
        if self.biases:
            names: Any = lambda model: [name for name, _ in model.named_parameters()]  # noqa: E731
            trainer.get_decay_parameter_names = names  # type: ignore[method-assign]
        super().attach(trainer)
