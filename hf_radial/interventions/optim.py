"""Any optimizer that `Trainer` knows by name: `optim:optim=grokadamw`, `optim:optim=adafactor`, ..."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transformers import Trainer
from transformers.training_args import OptimizerNames

from hf_radial.interventions.base import Intervention


def check_no_optimizer(trainer: Trainer, name: str) -> None:
    """ValueError if the trainer was given one, or an intervention has brought one."""
    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        raise ValueError(f"{name}: the trainer has an optimizer already; leave that out, or give {name} before it")


@dataclass(eq=False)
class Optim(Intervention):
    """Sets `optim` of the trainer's arguments.

    Args:
        optim: a value of `TrainingArguments.optim`. GrokAdamW needs the package of that name:
            `pip install 'hf_radial[interventions]'`.
        args: `TrainingArguments.optim_args`, with `;` in the place of the comma.
    """

    name: ClassVar[str] = "optim"
    optim: str
    args: str = ""

    def __post_init__(self) -> None:
        known = [kind.value for kind in OptimizerNames]
        if self.optim not in known:
            raise ValueError(f"optim={self.optim!r} is unknown; there are {', '.join(known)}")

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)
        trainer.args.optim = OptimizerNames(self.optim)
        trainer.args.optim_args = self.args.replace(";", ",") or None
        try:
            Trainer.get_optimizer_cls_and_kwargs(trainer.args)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"optim={self.optim!r} cannot be used: {error} (pip install 'hf_radial[interventions]' for grokadamw)"
            ) from error
        super().attach(trainer)
