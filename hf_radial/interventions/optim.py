"""Optim: any optimizer that `Trainer` knows by name.

Method: sets `optim` of the trainer's arguments.

Source: `transformers.training_args.OptimizerNames`. GrokAdamW (cognitivecomputations/grokadamw) and Schedule-Free (Defazio et
al., "The Road Less Scheduled", arXiv 2405.15682) need the packages `grokadamw` and `schedulefree`: `pip install
'hf_radial[interventions]'`.

Use: `optim:optim=grokadamw`, `optim:optim=adafactor`, `optim:optim=schedule_free_adamw`, ... With a Schedule-Free optimizer the
trainer's schedule becomes "constant", since the optimizer has the warm-up of `warmup_steps` itself.

Saved model: weights alone. `from_pretrained` gives the model that was trained. A Schedule-Free optimizer evaluates other
weights than those at which it computes gradients. A checkpoint holds the former if it was written right after an evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType
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


def own_optimizer(trainer: Trainer, method: Any) -> None:
    """Let a trainer make its optimizer by `method.optimizer(model, trainer)`, each time that it needs one."""
    # As `Trainer` has it for optimizers that share the parameters out: called with the model, once there is none.
    trainer.optimizer_cls_and_kwargs = (_factory, {"method": method, "trainer": trainer})  # type: ignore[assignment]


def check_own_optimizer(trainer: Trainer, method: Any) -> None:
    """Raise a ValueError if a trainer cannot have an optimizer of `method`'s, or has another one by now."""
    name, chosen, model = method.name, trainer.optimizer_cls_and_kwargs, trainer.model
    if method.trainer is not trainer:
        check_no_optimizer(trainer, name)
    elif chosen is None or chosen[1].get("method") is not method:
        raise ValueError(f"{name}: the trainer was given another optimizer after it; leave one of them out")
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(f"{name}: FSDP and DeepSpeed are not supported; use one process or DDP")
    if model is None:
        raise ValueError(f"{name}: the trainer has no model")
    if any(p.dtype == torch.float16 and p.requires_grad for p in model.parameters()):
        raise ValueError(f"{name}: in float16 weights Adam's epsilon is zero and steps become NaN; use bfloat16 or float32")


def decay_groups(trainer: Trainer, model: Any, without: Container[int] = ()) -> list[dict[str, Any]]:
    """Trained parameters in two groups, with the trainer's weight decay and without, as `Trainer` decides; empty ones left out.

    Args:
        without: the `id` of each parameter that is left out.
    """
    decayed = set(trainer.get_decay_parameter_names(model))
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in without:
            groups[name in decayed].append(parameter)
    decay = trainer.args.weight_decay
    return [{"params": params, "weight_decay": decay if yes else 0.0} for yes, params in groups.items() if params]


def _factory() -> Any:
    return lambda model, method, trainer: method.optimizer(model, trainer)


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

    @property
    def is_schedule_free(self) -> bool:
        """Whether the optimizer has a warm-up of its own, and needs a constant learning rate."""
        return self.optim.startswith("schedule_free")

    def check(self, trainer: Trainer) -> None:
        if self.trainer is trainer:
            check_argument(trainer, self.name, "optim", OptimizerNames(self.optim))
            check_argument(trainer, self.name, "optim_args", self.optim_args)
            if self.is_schedule_free:
                check_argument(trainer, self.name, "lr_scheduler_type", SchedulerType.CONSTANT)
            if trainer.optimizer_cls_and_kwargs is not None:
                raise ValueError("optim: the trainer was given another optimizer after it; leave one of them out")

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)
        self.check_args(trainer.args)
        trainer.args.optim = OptimizerNames(self.optim)
        trainer.args.optim_args = self.optim_args
        if self.is_schedule_free:
            trainer.args.lr_scheduler_type = SchedulerType.CONSTANT
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
                "for grokadamw and schedule_free)"
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
