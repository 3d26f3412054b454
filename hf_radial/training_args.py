"""`RadialArguments`: `TrainingArguments` plus the options of this package."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from hf_radial.penalty.config import SCHEDULES, RadialConfig
from hf_radial.penalty.functional import SIDES
from hf_radial.sites.find import WHERE
from hf_radial.training.fast.resident import RESIDENT_DATA

if TYPE_CHECKING:
    from hf_radial.interventions.base import Intervention


@dataclass
class RadialArguments(TrainingArguments):
    """`TrainingArguments` plus the penalty. `report_to` is TensorBoard unless told otherwise."""

    radial_lambda: float = field(
        default=0.0, metadata={"help": "Weight of the hypersphere penalty; 0 switches it off and still logs the radii."}
    )
    radial_radius: str = field(
        default="sqrt_d",
        metadata={
            "help": "Target radius: a number, 'sqrt_d' (the paper's), 'initial' (each site's own at the start), or '2*initial'."
        },
    )
    radial_side: str = field(
        default="both",
        metadata={
            "help": "'both' sides of the sphere (the paper's), or only vectors 'above' or 'below' the target radius.",
            "choices": list(SIDES),
        },
    )
    radial_warmup_steps: int = field(
        default=0, metadata={"help": "Optimizer steps over which radial_lambda grows linearly from 0."}
    )
    radial_sites: list[str] | None = field(
        default=None,
        metadata={
            "help": "Module name patterns (globs, or re:...) instead of the sublayers that are found; '!PATTERN' leaves out."
        },
    )
    radial_schedule: str = field(
        default="constant",
        metadata={
            "help": "radial_lambda after the warm-up: 'constant', or falling to 0 at the last step on a 'cosine'.",
            "choices": list(SCHEDULES),
        },
    )
    radial_where: str = field(
        default="increment",
        metadata={
            "help": "Where a norm follows a sublayer: the 'increment' behind it (the paper's), or what goes in, 'pre_norm'.",
            "choices": list(WHERE),
        },
    )
    resident_data: str = field(
        default="auto",
        metadata={
            "help": "Keep datasets that are small tables of numbers on the device: 'auto' where it changes no result and they "
            "fit, 'always' (else it is an error), 'never'.",
            "choices": list(RESIDENT_DATA),
        },
    )
    intervention: list[str] | None = field(
        default=None,
        metadata={
            "help": "Other ways to train differently, NAME or NAME:option=value,option=value; see hf_radial.interventions.",
            "nargs": "+",
        },
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036 (HfArgumentParser reads the union in this order)
        default="tensorboard", metadata={"help": "Where to report logs: 'tensorboard', 'wandb', ..., 'all' or 'none'."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if callable(self.radial_schedule):
            raise TypeError(
                "radial_schedule: arguments are written to files, which cannot hold a function; give it to RadialTrainer or "
                "RadialCallback"
            )
        self.radial_config()
        self.made_interventions()
        if self.resident_data not in RESIDENT_DATA:
            raise ValueError(f"resident_data={self.resident_data!r} is unknown; choose one of {', '.join(RESIDENT_DATA)}")

    def made_interventions(self) -> list[Intervention]:
        """What `intervention` names, as new objects in each call.

        Raises:
            ValueError: one is unknown, comes twice, or has an option that is unknown or out of range.
        """
        given: Any = self.intervention
        if isinstance(given, str):
            raise ValueError(f"intervention={self.intervention!r} must be a list, such as [{self.intervention!r}]")
        if given is not None and not isinstance(given, (list, tuple)):
            raise ValueError(f"intervention={given!r} must be a list, such as ['dropout:p=0.1']")
        if not self.intervention:
            return []
        from hf_radial.interventions import interventions

        return interventions(self.intervention)

    def radial_config(self) -> RadialConfig:
        """The penalty's options, checked."""
        return RadialConfig(**{option.name: getattr(self, option.name) for option in fields(RadialConfig)})
