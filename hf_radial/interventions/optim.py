"""Optim: any optimizer that `Trainer` knows by name.

Method: sets `optim` of the trainer's arguments.

Source: `transformers.training_args.OptimizerNames`. GrokAdamW needs the package of that name: `pip install
'hf_radial[interventions]'`.

Use: `optim:optim=grokadamw`, `optim:optim=adafactor`, ...

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import Trainer
from transformers.training_args import OptimizerNames

from hf_radial.interventions.base import Intervention


def check_no_optimizer(trainer: Trainer, name: str) -> None:
    """Raise a ValueError if the trainer was given an optimizer, or an intervention has brought one."""
    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        raise ValueError(f"{name}: the trainer has an optimizer already; leave that out, or give {name} before it")


def check_argument(trainer: Trainer, name: str, argument: str, value: object) -> None:
    """Raise a ValueError if an argument that an intervention has set was changed since."""
    if (found := getattr(trainer.args, argument)) != value:
        raise ValueError(
            f"{name}: it sets {argument}={value}, but the arguments now have {argument}={found}. Another intervention "
            f"or the search has changed it: leave {argument} out of that, or leave out {name}"
        )


@dataclass(eq=False)
class Optim(Intervention):
    """Sets `optim` and `optim_args` of the trainer's arguments."""

    name: ClassVar[str] = "optim"
    optim: str = field(
        metadata={
            "help": "Name of the optimizer, as of TrainingArguments.optim.",
            "choices": tuple(str(kind.value) for kind in OptimizerNames),
            "example": "adafactor",
        }
    )
    args: str = field(
        default="",
        metadata={
            "help": "TrainingArguments.optim_args, with ';' in the place of the comma.",
            "example": "scale_parameter=True",
        },
    )

    @property
    def optim_args(self) -> str | None:
        """As `TrainingArguments` has them."""
        return self.args.replace(";", ",") or None

    def check(self, trainer: Trainer) -> None:
        if self.trainer is trainer:
            check_argument(trainer, self.name, "optim", OptimizerNames(self.optim))
            check_argument(trainer, self.name, "optim_args", self.optim_args)
            if trainer.optimizer_cls_and_kwargs is not None:
                raise ValueError("optim: the trainer was given another optimizer after it; leave one of them out")

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)
        trainer.args.optim = OptimizerNames(self.optim)
        trainer.args.optim_args = self.optim_args
        try:
            Trainer.get_optimizer_cls_and_kwargs(trainer.args)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"optim={self.optim!r} cannot be used: {error} (pip install 'hf_radial[interventions]' for grokadamw)"
            ) from error
        super().attach(trainer)
