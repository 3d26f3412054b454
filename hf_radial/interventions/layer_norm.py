"""LayerNorm: standardise the hidden pre-activations of this package's MLP.

Method: each hidden vector is shifted to mean 0 and scaled to variance 1 before its activation; with `affine`, a learned scale
and shift follow. With `layers=last`, only the vectors of the last hidden layer are.

Source: Ba et al., "Layer Normalization", arXiv 1607.06450.

Use: `layer_norm`, or `layer_norm:affine=true`. It is an option of the model, so the model must be made with it: call
`hf_radial.interventions.configure(config, ["layer_norm"])` before the model is made, in `model_init` too. Only
`ModularMLPConfig` has the option.

Saved model: the configuration says that the model has the norms. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import Trainer

from hf_radial.interventions.base import Intervention


def set_normalization(config: Any, value: str, name: str) -> None:
    """Set the option of a model that is about to be made.

    Raises:
        ValueError: models of this configuration have no such option.
    """
    if not hasattr(config, "normalization"):
        raise ValueError(f"{name}: {type(config).__name__} has no option `normalization`; ModularMLPConfig has")
    config.normalization = value


def check_normalization(trainer: Trainer, value: str, name: str) -> None:
    """Raise a ValueError if the model was made without it."""
    found = getattr(getattr(trainer.model, "config", None), "normalization", None)
    if found != value:
        raise ValueError(
            f"{name}: the model was made with normalization={found!r}, not {value!r}: call hf_radial.interventions.configure "
            "on its configuration before the model is made, in model_init too"
        )


@dataclass(eq=False)
class LayerNorm(Intervention):
    """An option of the model. The model must be made with it; `configure` sets it."""

    name: ClassVar[str] = "layer_norm"
    swept: ClassVar[tuple[str, ...] | None] = ()
    affine: bool = field(default=False, metadata={"help": "Whether a learned scale and shift follow."})
    layers: str = field(
        default="all",
        metadata={"help": "Which hidden layers; the last alone has no scale and shift.", "choices": ("all", "last")},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.affine and self.layers == "last":
            raise ValueError("affine=True is not there for layers='last'; choose layers='all'")

    @property
    def option(self) -> str:
        """The value of `ModularMLPConfig.normalization`."""
        if self.layers == "last":
            return "layer_norm_last"
        return "layer_norm_affine" if self.affine else "layer_norm"

    def can_join_sweep(self) -> bool:
        return super().can_join_sweep() and not self.affine

    def configure(self, config: Any) -> None:
        set_normalization(config, self.option, self.name)

    def check(self, trainer: Trainer) -> None:
        check_normalization(trainer, self.option, self.name)
