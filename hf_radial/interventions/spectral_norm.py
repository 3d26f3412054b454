"""Spectral normalisation: hidden matrices divided by their largest singular value (Miyato et al., arXiv 1802.05957)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.heads import hidden_layers


@dataclass(eq=False)
class SpectralNorm(Intervention):
    """torch's `spectral_norm` on every hidden matrix; at the end of training the weights are what was divided.

    Args:
        iterations: of the power method, a step.
    """

    name: ClassVar[str] = "spectral_norm"
    iterations: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be a whole number of at least 1")

    def attach(self, trainer: Trainer) -> None:
        model: Any = trainer.model
        for layer in hidden_layers(model).values():
            spectral_norm(layer, n_power_iterations=self.iterations)
        super().attach(trainer)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for module in list(kwargs["model"].modules()):
            if parametrize.is_parametrized(module, "weight"):
                module.eval()  # no further step of the power method
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
