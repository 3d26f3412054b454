"""Dropout (Srivastava et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from transformers import Trainer

from hf_radial.interventions.base import Intervention

OPTION = "hidden_dropout"  # of our MLP, which has no dropout layers


@dataclass(eq=False)
class Dropout(Intervention):
    """Sets the rate of every dropout of a model.

    Args:
        p: from 0 to below 1.
    """

    name: ClassVar[str] = "dropout"
    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError(f"p={self.p} must be at least 0 and below 1")

    def attach(self, trainer: Trainer) -> None:
        model: Any = trainer.model
        layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        if not layers and not hasattr(model.config, OPTION):
            raise ValueError(f"dropout: {type(model).__name__} has no dropout layer")
        for layer in layers:
            layer.p = float(self.p)
        if hasattr(model.config, OPTION):
            setattr(model.config, OPTION, float(self.p))
        super().attach(trainer)
