"""`RadialArguments`: `TrainingArguments` plus the penalty's options; `RadialConfig`: those options alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import TrainingArguments

from hf_radial.functional import SIDES
from hf_radial.regularizer import check_lambda, check_radius_choice


@dataclass(frozen=True)
class RadialConfig:
    """The penalty's options, checked; the same for `RadialTrainer`, `RadialArguments` and `RadialCallback`.

    Raises:
        ValueError, TypeError: an option is out of range; the message names it.
    """

    radial_lambda: float
    radial_radius: float | str = "sqrt_d"
    radial_side: str = "both"
    radial_warmup_steps: int = 0
    radial_sites: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_lambda(self.radial_lambda)
        object.__setattr__(self, "radial_radius", check_radius_choice(self.radial_radius))
        if self.radial_side not in SIDES:
            raise ValueError(f"radial_side={self.radial_side!r} is unknown; choose one of {', '.join(SIDES)}")
        if isinstance(self.radial_warmup_steps, bool) or not isinstance(self.radial_warmup_steps, int):
            raise TypeError(f"radial_warmup_steps={self.radial_warmup_steps!r} must be a whole number of optimizer steps")
        if self.radial_warmup_steps < 0:
            raise ValueError(f"radial_warmup_steps={self.radial_warmup_steps} must not be negative; 0 means no warm-up")

    def lambda_at(self, step: int) -> float:
        """The weight in optimizer step `step`, counted from 0: it grows linearly to `radial_lambda` over the warm-up."""
        if self.radial_warmup_steps == 0:
            return self.radial_lambda
        return self.radial_lambda * min(1.0, (step + 1) / self.radial_warmup_steps)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON can hold them."""
        return {**asdict(self), "radial_sites": None if self.radial_sites is None else list(self.radial_sites)}

    @property
    def variant(self) -> str:
        """The name of what is penalised, for tables and cards; `"paper"` is arXiv 2606.32000 to the letter."""
        if self.radial_lambda == 0:
            return "none"
        parts = []
        if self.radial_side == "above":
            parts.append("one-sided")
        if self.radial_radius != "sqrt_d":
            parts.append("target initial" if self.radial_radius == "initial" else f"target {self.radial_radius:g}")
        if self.radial_warmup_steps:
            parts.append(f"warm-up {self.radial_warmup_steps}")
        return ", ".join(parts) or "paper"


@dataclass
class RadialArguments(TrainingArguments):
    """`TrainingArguments` plus the penalty. `report_to` is TensorBoard unless told otherwise."""

    radial_lambda: float = field(
        default=0.0, metadata={"help": "Weight of the hypersphere penalty; 0 switches it off and still logs the radii."}
    )
    radial_radius: str = field(
        default="sqrt_d",
        metadata={"help": "Target radius: a number, 'sqrt_d' (the paper's) or 'initial' (each site's own at the start)."},
    )
    radial_side: str = field(
        default="both",
        metadata={
            "help": "'both' sides of the sphere (the paper's) or only vectors 'above' the target radius.",
            "choices": list(SIDES),
        },
    )
    radial_warmup_steps: int = field(
        default=0, metadata={"help": "Optimizer steps over which radial_lambda grows linearly from 0."}
    )
    radial_sites: list[str] | None = field(
        default=None,
        metadata={"help": "Module name patterns (globs, or re:...) to penalise instead of the known sublayer outputs."},
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036 (HfArgumentParser reads the union in this order)
        default="tensorboard", metadata={"help": "Where to report logs: 'tensorboard', 'wandb', ..., 'all' or 'none'."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.radial_config()

    def radial_config(self) -> RadialConfig:
        """The penalty's options, checked."""
        return RadialConfig(
            self.radial_lambda, self.radial_radius, self.radial_side, self.radial_warmup_steps, self.radial_sites
        )


def resolve_config(args: TrainingArguments, **options: Any) -> RadialConfig:
    """Options given by name win over those of `RadialArguments`.

    Raises:
        ValueError: neither says what `radial_lambda` is.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(args, RadialArguments):
        return RadialConfig(**{**args.radial_config().to_dict(), **given})
    if "radial_lambda" not in given:
        raise ValueError("radial_lambda is missing: pass radial_lambda=0.05 (say), or args=RadialArguments(...)")
    return RadialConfig(**given)
