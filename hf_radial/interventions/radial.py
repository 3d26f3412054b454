"""The hypersphere penalty and its variants, as one intervention among others (arXiv 2606.32000)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import Trainer

from hf_radial.callbacks.penalty import RadialCallback
from hf_radial.interventions.base import Intervention
from hf_radial.penalty.config import RadialConfig, resolve_config
from hf_radial.training.mixin import RadialMixin


def add_penalty(trainer: Trainer, options: dict[str, Any], name: str) -> None:
    """Give a trainer the penalty with these options, as `RadialTrainer` has it or as a callback.

    Raises:
        ValueError: it has one already, or an option is out of range.
    """
    RadialConfig(**options)
    if isinstance(trainer, RadialMixin):
        if trainer.radial_config.radial_lambda > 0:
            raise ValueError(f"{name}: the trainer has a penalty already (radial_lambda={trainer.radial_config.radial_lambda})")
        trainer.end_radial()
        trainer._radial_options = {**trainer._radial_options, **options}
        trainer._set_up(resolve_config(trainer.args, **trainer._radial_options))
        return
    if any(isinstance(callback, RadialCallback) for callback in trainer.callback_handler.callbacks):
        raise ValueError(f"{name}: the trainer has a RadialCallback already")
    trainer.add_callback(RadialCallback(**options))


@dataclass(eq=False)
class Radial(Intervention):
    """Adds the penalty; options as `radial_...` of `RadialTrainer`.

    Args:
        strength: `radial_lambda`.
        sites: patterns joined by `;`, such as `transformer.h.*` for the residual stream instead of the increments; empty for
            what is found.
    """

    name: ClassVar[str] = "radial"
    strength: float
    radius: float | str = "sqrt_d"
    side: str = "both"
    warmup_steps: int = 0
    schedule: str = "constant"
    where: str = "increment"
    sites: str = ""

    def __post_init__(self) -> None:
        RadialConfig(**self.options())

    def options(self) -> dict[str, Any]:
        return {
            "radial_lambda": self.strength,
            "radial_radius": self.radius,
            "radial_side": self.side,
            "radial_warmup_steps": self.warmup_steps,
            "radial_schedule": self.schedule,
            "radial_where": self.where,
            "radial_sites": self.sites.split(";") if self.sites else None,
        }

    def attach(self, trainer: Trainer) -> None:
        add_penalty(trainer, self.options(), self.name)
        super().attach(trainer)
