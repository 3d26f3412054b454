"""Dropout: set random units to zero while the model trains.

Method: sets the rate of every dropout layer of the model, and the option `hidden_dropout` of this package's MLP, which has
none.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.

Use: start with `dropout:p=0.1`. Tune `p` and the weight decay together. Models that keep their rate in a number instead of a
dropout layer (Llama's attention) are refused: set the rate in their configuration.

Saved model: the same function, since dropout does nothing in evaluation. Of the MLP, the saved configuration has the rate. Of
other models it has the rate that they were made with, so give it again to train further.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn
from transformers import Trainer

from hf_radial.interventions.base import Intervention

OPTION = "hidden_dropout"  # of our MLP, which has no dropout layers


def dropout_layers(model: nn.Module) -> list[nn.Dropout]:
    """The layers whose rate is set."""
    return [module for module in model.modules() if isinstance(module, nn.Dropout)]


@dataclass(eq=False)
class Dropout(Intervention):
    """Sets the rate of every dropout of a model."""

    name: ClassVar[str] = "dropout"
    p: float = field(
        metadata={
            "help": "Rate of every dropout: the share of units that is set to zero.",
            "at_least": 0,
            "below": 1,
            "example": 0.1,
        }
    )

    def check(self, trainer: Trainer) -> None:
        model: Any = trainer.model
        if not dropout_layers(model) and not hasattr(getattr(model, "config", None), OPTION):
            raise ValueError(f"dropout: {type(model).__name__} has no dropout layer; set a rate in its configuration instead")

    def put_in_force(self, model: Any) -> None:
        for layer in dropout_layers(model):
            layer.p = float(self.p)
        if hasattr(getattr(model, "config", None), OPTION):
            setattr(model.config, OPTION, float(self.p))
