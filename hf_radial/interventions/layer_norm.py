"""LayerNorm on hidden pre-activations (Ba et al., arXiv 1607.06450), of all hidden layers or of the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import Trainer

from hf_radial.interventions.base import Intervention


def set_normalization(config: Any, value: str, name: str) -> None:
    """ValueError if models of this configuration have no such option."""
    if not hasattr(config, "normalization"):
        raise ValueError(f"{name}: {type(config).__name__} has no option `normalization`; ModularMLPConfig has")
    config.normalization = value


def check_normalization(trainer: Trainer, value: str, name: str) -> None:
    """ValueError if the model was made without it."""
    found = getattr(getattr(trainer.model, "config", None), "normalization", None)
    if found != value:
        raise ValueError(
            f"{name}: the model was made with normalization={found!r}, not {value!r}: call hf_radial.interventions.configure "
            "on its configuration before it is made"
        )


@dataclass(eq=False)
class LayerNorm(Intervention):
    """A model option: the model must be made with it, for which `configure` is there.

    Args:
        affine: with a learned scale and shift.
        layers: "all" hidden layers, or the "last" one alone, which is without a learned scale and shift.
    """

    name: ClassVar[str] = "layer_norm"
    affine: bool = False
    layers: str = "all"

    def __post_init__(self) -> None:
        if self.layers not in ("all", "last"):
            raise ValueError(f"layers={self.layers!r} must be 'all' or 'last'")
        if self.affine and self.layers == "last":
            raise ValueError("affine=True is not there for layers='last'; choose layers='all'")

    @property
    def option(self) -> str:
        if self.layers == "last":
            return "layer_norm_last"
        return "layer_norm_affine" if self.affine else "layer_norm"

    def configure(self, config: Any) -> None:
        set_normalization(config, self.option, self.name)

    def attach(self, trainer: Trainer) -> None:
        check_normalization(trainer, self.option, self.name)
        super().attach(trainer)
