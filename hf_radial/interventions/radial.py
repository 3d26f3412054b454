"""Radial: the hypersphere penalty and its variants, as one intervention among others.

Method: adds `strength * sum over sites of mean (||h|| - R)^2 / d` to the loss, which pulls the vectors that each sublayer adds
to the stream towards a sphere of radius `R`.

Source: arXiv 2606.32000, Eq. 3. `radius=initial`, `side=above`, `warmup_steps`, `schedule` and `where` are this package's
variants.

Use: start with `radial:strength=0.05,radius=initial`, and the weight decay that you would use without it. The target is then
each site's own radius at the start. `radial:strength=0.05` is the paper's, with a target of `sqrt(d)`.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import Trainer

from hf_radial.callbacks.penalty import RadialCallback
from hf_radial.interventions.base import Intervention
from hf_radial.penalty.config import RadialConfig, resolve_config
from hf_radial.penalty.functional import SIDES
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


def check_penalty(trainer: Trainer, strength: float, name: str) -> None:
    """Raise a ValueError if a penalty of this strength is not in the trainer any more."""
    if isinstance(trainer, RadialMixin):
        there = resolve_config(trainer.args, **trainer._radial_options).radial_lambda
    else:
        callbacks = trainer.callback_handler.callbacks
        there = next((callback.config.radial_lambda for callback in callbacks if isinstance(callback, RadialCallback)), 0.0)
    if there != strength:
        raise ValueError(f"{name}: the trainer's penalty has strength {there:g} and not {strength:g}; give one of the two")


@dataclass(eq=False)
class Radial(Intervention):
    """Adds the penalty; its options are the `radial_...` options of `RadialTrainer`."""

    name: ClassVar[str] = "radial"
    swept: ClassVar[tuple[str, ...] | None] = ("strength", "radius", "side", "sites")
    strength: float = field(metadata={"help": "Weight of the penalty (radial_lambda).", "at_least": 0, "example": 0.05})
    radius: float | str = field(
        default="sqrt_d",
        metadata={"help": "Target radius: a number, sqrt_d (the paper's), initial (each site's at the start), or 2*initial."},
    )
    side: str = field(
        default="both",
        metadata={"help": "Which vectors are pulled: both, or those above or below the sphere alone.", "choices": SIDES},
    )
    warmup_steps: int = field(
        default=0, metadata={"help": "Optimizer steps over which the weight grows from 0.", "at_least": 0}
    )
    schedule: str = field(
        default="constant",
        metadata={"help": "The weight after the warm-up: constant, or falling to 0.", "choices": ("constant", "cosine")},
    )
    where: str = field(
        default="increment",
        metadata={
            "help": "Where a norm follows a sublayer: its output (pre_norm) or what the norm makes of it (increment).",
            "choices": ("increment", "pre_norm"),
        },
    )
    sites: str = field(
        default="",
        metadata={
            "help": "Module name patterns joined by ';' in the place of the sites that are found.",
            "example": "transformer.h.*",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        RadialConfig(**self.options())

    def options(self) -> dict[str, Any]:
        """As `RadialConfig` takes them."""
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

    def change_member(self, member: Any) -> None:
        add_penalty(member, self.options(), self.name)

    def check(self, trainer: Trainer) -> None:
        check_penalty(trainer, self.strength, self.name)
