"""Activation norm: a penalty on the length of representations, towards zero and not towards a sphere.

Method: the hypersphere penalty with a sphere of radius 0: `strength * sum over sites of mean ||h||^2 / d`.

Source: the baseline "MAN" of arXiv 2606.32000.

Use: tune `strength` as you would tune the strength of `radial`; a first value is `activation_norm:strength=0.01`. It separates
what shorter vectors do from what a target radius does.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.radial import add_penalty, check_penalty


@dataclass(eq=False)
class ActivationNorm(Intervention):
    """Adds the hypersphere penalty with radius 0 to the loss."""

    name: ClassVar[str] = "activation_norm"
    strength: float = field(metadata={"help": "Weight of the penalty.", "at_least": 0, "example": 0.01})

    def attach(self, trainer: Trainer) -> None:
        add_penalty(trainer, {"radial_lambda": self.strength, "radial_radius": 0.0}, self.name)
        super().attach(trainer)

    def check(self, trainer: Trainer) -> None:
        check_penalty(trainer, self.strength, self.name)
