"""A penalty on the length of representations, towards zero and not towards a sphere: like the paper's MAN baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.radial import add_penalty


@dataclass(eq=False)
class ActivationNorm(Intervention):
    """Adds `strength * sum over sites of mean ||h||^2 / d`: the hypersphere penalty with a sphere of radius 0.

    Args:
        strength: at least 0.
    """

    name: ClassVar[str] = "activation_norm"
    strength: float

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"strength={self.strength} must be at least 0")

    def attach(self, trainer: Trainer) -> None:
        add_penalty(trainer, {"radial_lambda": self.strength, "radial_radius": 0.0}, self.name)
        super().attach(trainer)
