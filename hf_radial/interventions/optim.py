"""Optim: any optimizer that `Trainer` knows by name.

Method: sets `optim` of the trainer's arguments.

Source: `transformers.training_args.OptimizerNames`. GrokAdamW needs the package of that name: `pip install
'hf_radial[interventions]'`.

Use: `optim:optim=grokadamw`, `optim:optim=adafactor`, ...

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import Trainer, TrainingArguments
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
            "example": "adagrad",
        }
    )
    args: str = field(
        default="",
        metadata={
            "help": "TrainingArguments.optim_args, with ';' in the place of the comma.",
            "example": "lr_decay=0.01",
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
        self.check_args(trainer.args)
        trainer.args.optim = OptimizerNames(self.optim)
        trainer.args.optim_args = self.optim_args
        super().attach(trainer)

    def check_args(self, args: TrainingArguments) -> None:
        """Raise a ValueError if the optimizer cannot be made, or if `Trainer` would not pass one of `args` on to it."""
        pairs = [part.strip() for part in self.args.split(";")] if self.args else []
        for pair in pairs:
            if pair.count("=") != 1 or not all(pair.split("=")):
                raise ValueError(
                    f"optim: args={self.args!r} has {pair!r}, which is no name=value; separate several with ';', for example "
                    "optim:optim=sgd,args=momentum=0.9;nesterov=true"
                )

        def outcome(options: list[str]) -> Any:
            like = copy.copy(args)
            like.optim, like.optim_args = OptimizerNames(self.optim), ",".join(options) or None
            return Trainer.get_optimizer_cls_and_kwargs(like)

        try:
            found = outcome(pairs)
        except (AttributeError, ImportError, ValueError) as error:
            raise ValueError(
                f"optim={self.optim!r} with args={self.args!r} cannot be used: {error} (pip install 'hf_radial[interventions]' "
                "for grokadamw)"
            ) from error
        for i, pair in enumerate(pairs):
            others = [*pairs[:i], *pairs[i + 1 :]]
            try:  # with another value, or none, something would be different if it were read
                is_read = any(outcome(options) != found for options in (others, [*others, pair.partition("=")[0] + "=0.123"]))
            except (AttributeError, ValueError):
                is_read = True
            if not is_read:
                raise ValueError(
                    f"optim: args={self.args!r} would have no effect: Trainer does not pass {pair.partition('=')[0]!r} on to "
                    f"optim={self.optim!r}. Leave it out, or give the trainer optimizer_cls_and_kwargs=(class, options)"
                )
