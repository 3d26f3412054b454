"""Logits divided by a temperature: above 1 the softmax sees them shorter, below 1 longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.heads import head_of
from hf_radial.sites.hooks import Hook


@dataclass(eq=False)
class LogitTemperature(Intervention):
    """Divides the logits, in training and in evaluation. A saved model gives them undivided: the same answers.

    Args:
        temperature: above 0.
    """

    name: ClassVar[str] = "logit_temperature"
    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")

    def attach(self, trainer: Trainer) -> None:
        def divided(module: Any, args: Any, output: Tensor) -> Tensor:
            return output / self.temperature

        head_of(trainer.model).register_forward_hook(Hook(divided))
        super().attach(trainer)
