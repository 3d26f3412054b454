"""The penalty's options, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import cos, pi
from numbers import Real
from typing import Any

from transformers import TrainingArguments

from hf_radial.penalty.functional import SIDES, check_radius, is_number
from hf_radial.sites.find import WHERE, check_patterns

RADIUS_NAMES = ("sqrt_d", "initial")


def check_lambda(radial_lambda: Any) -> None:
    """Raise unless `radial_lambda` is a number that is finite in float32 and not negative."""
    if isinstance(radial_lambda, bool) or not isinstance(radial_lambda, Real):
        raise TypeError(f"radial_lambda={radial_lambda!r} must be a number, for example 0.05")
    if not (is_number(radial_lambda) and float(radial_lambda) >= 0):
        raise ValueError(
            f"radial_lambda={radial_lambda!r:.40} must be finite in float32 and not negative; 0 switches the penalty off"
        )


def check_radius_choice(radius: float | str | None, name: str = "radius") -> float | str:
    """The radius as a float of at least 0, `"sqrt_d"`, `"initial"`, or a multiple of one of the two, such as `"2*initial"`.

    Numbers may be text, as from a command line.

    Args:
        name: the argument's name in error messages.

    Raises:
        TypeError: `radius` is neither a number nor text.
        ValueError: `radius` is negative, not finite in float32, or unknown text.

    >>> check_radius_choice("2.50 * initial"), check_radius_choice("1*sqrt_d"), check_radius_choice("4")
    ('2.5*initial', 'sqrt_d', 4.0)
    """
    if radius is None:
        return "sqrt_d"
    wrong = (
        f"{name}={radius!r:.40} must be a finite number of at least 0, in float32, or one of "
        f"{', '.join(map(repr, RADIUS_NAMES))}, which a factor may multiply, as in '2*initial'"
    )
    if isinstance(radius, str) and radius.rpartition("*")[2].strip() in RADIUS_NAMES:
        factor, times, base = radius.rpartition("*")
        try:
            multiple = float(factor) if times else 1.0
        except ValueError:
            raise ValueError(wrong) from None
        if not (is_number(multiple) and multiple > 0):
            raise ValueError(wrong)
        return base.strip() if multiple == 1 else f"{multiple:g}*{base.strip()}"
    if isinstance(radius, bool) or not isinstance(radius, (Real, str)):
        raise TypeError(wrong)
    try:
        number = float(radius) if isinstance(radius, str) else radius
        check_radius(number)
    except ValueError:
        raise ValueError(wrong) from None
    return float(number)


def multiple_of(radius: float | str) -> tuple[float, str | None]:
    """A radius from `check_radius_choice` as a factor and the name that it multiplies, which is `None` for a number.

    >>> multiple_of("0.5*initial"), multiple_of("sqrt_d"), multiple_of(4.0)
    ((0.5, 'initial'), (1.0, 'sqrt_d'), (4.0, None))
    """
    if not isinstance(radius, str):
        return radius, None
    factor, _, base = radius.rpartition("*")
    return float(factor or 1), base


SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class RadialConfig:
    """The checked options of the penalty, shared by `RadialTrainer`, `RadialArguments` and `RadialCallback`.

    Attributes:
        radial_schedule: how `radial_lambda` changes during a run. `"constant"` keeps it. `"cosine"` falls from the full value,
            which it has at the end of the warm-up, to 0 in the last optimizer step. A function takes the optimizer step,
            counted from 0, and returns a finite factor of at least 0. The warm-up multiplies all three.

    Raises:
        ValueError, TypeError: an option is out of range. The message names the option.
    """

    radial_lambda: float
    radial_radius: float | str = "sqrt_d"
    radial_side: str = "both"
    radial_warmup_steps: int = 0
    radial_sites: Sequence[str] | None = None
    radial_schedule: str | Callable[[int], float] = "constant"
    radial_where: str = "increment"

    def __post_init__(self) -> None:
        given: Any = self.radial_lambda
        check_lambda(given)
        if not isinstance(given, (int, float)):  # a number of NumPy, say, which JSON cannot hold
            object.__setattr__(self, "radial_lambda", float(given))
        object.__setattr__(self, "radial_radius", check_radius_choice(self.radial_radius, "radial_radius"))
        check_patterns(self.radial_sites, "radial_sites")
        if self.radial_side not in SIDES:
            raise ValueError(f"radial_side={self.radial_side!r} is unknown; choose one of {', '.join(SIDES)}")
        if self.radial_where not in WHERE:
            raise ValueError(f"radial_where={self.radial_where!r} is unknown; choose one of {', '.join(map(repr, WHERE))}")
        steps: Any = self.radial_warmup_steps
        if isinstance(steps, bool) or not isinstance(steps, int):
            raise TypeError(f"radial_warmup_steps={steps!r} must be a whole number of optimizer steps")
        if not 0 <= steps < 2**63:
            raise ValueError(
                f"radial_warmup_steps={steps!r:.40} must not be negative, and be less than 2**63; 0 means no warm-up"
            )
        if not callable(self.radial_schedule):
            if not isinstance(self.radial_schedule, str):
                raise TypeError(
                    f"radial_schedule={self.radial_schedule!r} must be one of {', '.join(map(repr, SCHEDULES))} or a function "
                    "of the optimizer step"
                )
            if self.radial_schedule not in SCHEDULES:
                raise ValueError(
                    f"radial_schedule={self.radial_schedule!r} is unknown; choose one of {', '.join(map(repr, SCHEDULES))}, or "
                    "give RadialTrainer or RadialCallback a function of the optimizer step"
                )

    def lambda_at(self, step: int, max_steps: int) -> float:
        """The weight of the penalty in optimizer step `step`, counted from 0, in a run of `max_steps`.

        It grows linearly to `radial_lambda` over the warm-up, and is multiplied by the schedule's factor.

        Raises:
            TypeError, ValueError: the schedule is a function, and its result is not a finite number of at least 0.
        """
        if self.radial_lambda == 0:
            return 0.0
        warm_up = min(1.0, (step + 1) / self.radial_warmup_steps) if self.radial_warmup_steps else 1.0
        return self.radial_lambda * warm_up * self._factor_at(step, max_steps)

    def _factor_at(self, step: int, max_steps: int) -> float:
        if callable(self.radial_schedule):
            factor: Any = self.radial_schedule(step)  # the result of a user's function is checked
            where = f"radial_schedule: {self.schedule_name}({step}) returned {factor!r}"
            if not isinstance(factor, Real):
                raise TypeError(f"{where}; it must return a number that multiplies radial_lambda")
            if not (is_number(factor) and float(factor) >= 0 and is_number(self.radial_lambda * float(factor))):
                raise ValueError(f"{where}; radial_lambda times this must be finite in float32 and not negative")
            return float(factor)
        warm_up_end, last_step = max(self.radial_warmup_steps - 1, 0), max_steps - 1  # the steps with the full value and with 0
        if self.radial_schedule == "constant" or step <= warm_up_end or last_step <= warm_up_end:
            return 1.0
        return 0.5 * (1 + cos(pi * min(1.0, (step - warm_up_end) / (last_step - warm_up_end))))

    @property
    def starts_from_initial(self) -> bool:
        """Whether the targets are measured when a run begins: `"initial"` or a multiple of it."""
        return multiple_of(self.radial_radius)[1] == "initial"

    @property
    def schedule_name(self) -> str:
        """The schedule as text. For a function: module and name. For another callable: those of its class."""
        if isinstance(self.radial_schedule, str):
            return self.radial_schedule
        named: Any = self.radial_schedule if hasattr(self.radial_schedule, "__qualname__") else type(self.radial_schedule)
        return f"{named.__module__}.{named.__qualname__}"

    def options(self) -> dict[str, Any]:
        """The options by name, unchanged."""
        options = {option.name: getattr(self, option.name) for option in fields(self)}
        if isinstance(self.radial_sites, list):
            options["radial_sites"] = list(self.radial_sites)  # a copy: the caller may change the list
        return options

    def to_dict(self) -> dict[str, Any]:
        """The options in a form that JSON can hold. A schedule that is a function is given by its name."""
        sites = None if self.radial_sites is None else list(self.radial_sites)
        return {**self.options(), "radial_sites": sites, "radial_schedule": self.schedule_name}

    @property
    def variant(self) -> str:
        """The name of this variant of the penalty, for tables and cards. `"paper"` is exactly that of arXiv 2606.32000."""
        if self.radial_lambda == 0:
            return "none"
        parts = []
        if self.radial_side != "both":
            parts.append("one-sided" if self.radial_side == "above" else "floor")
        if self.radial_where == "pre_norm":
            parts.append("pre-norm")
        if self.radial_radius != "sqrt_d":
            parts.append(f"target {self.radial_radius if isinstance(self.radial_radius, str) else f'{self.radial_radius:g}'}")
        if self.radial_warmup_steps:
            parts.append(f"warm-up {self.radial_warmup_steps}")
        if self.radial_schedule != "constant":
            parts.append("cosine" if self.radial_schedule == "cosine" else f"schedule {self.schedule_name}")
        return ", ".join(parts) or "paper"


def resolve_config(args: TrainingArguments, **options: Any) -> RadialConfig:
    """The options from keyword arguments, and from `RadialArguments` for those that are not given.

    Raises:
        ValueError: `radial_lambda` is given in neither.
    """
    given = {name: value for name, value in options.items() if value is not None}
    config_of_args: Callable[[], RadialConfig] | None = getattr(args, "radial_config", None)
    if config_of_args is not None:
        return RadialConfig(**{**config_of_args().options(), **given})
    if "radial_lambda" not in given:
        raise ValueError("radial_lambda is missing: pass radial_lambda=0.05 (for example), or args=RadialArguments(...)")
    return RadialConfig(**given)
