"""SAM: train on the gradient at the worst point nearby.

Method: after the gradient `g` of a whole optimizer step is there, all trained parameters move by `rho g / ||g||`, the same
micro-batches are run once more, and the parameters move back. The optimizer gets the second gradient, clipped as the first.
With `adaptive`, the move is `rho w^2 g / || |w| g ||`, by element.

Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", arXiv 2010.01412; adaptive: Kwon
et al., "ASAM", arXiv 2102.11600. Compared with github.com/davda54/sam.

Use: start with `sam:rho=0.05`, the authors' default, and tune it from 0.01 to 0.5; ten times as much with `adaptive`. A step
costs twice as much. Logs are those of the first pass. A layer with running statistics, such as batch norm, updates them twice.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import check_plain_gradients, wide, with_gradients
from hf_radial.training.mixin import RadialMixin

TINY = 1e-12  # as in the code that it is compared with


def ascents(parameters: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, adaptive: bool = False) -> list[Tensor]:
    """The move of each parameter, in float32 or better: together they have length `rho` (without `adaptive`).

    >>> ascents([torch.tensor([1.0])], [torch.tensor([-2.0])], 0.05)
    [tensor([-0.0500])]
    """
    weights = [wide(p).abs() if adaptive else torch.ones((), device=p.device) for p in parameters]
    weighted = [weight * wide(g) for weight, g in zip(weights, gradients, strict=True)]
    length = torch.stack([one.norm().to(weighted[0].device) for one in weighted]).norm()
    return [weight * one * (rho / (length + TINY)).to(one) for weight, one in zip(weights, weighted, strict=True)]


@dataclass(eq=False)
class SAM(Intervention):
    """Replaces the gradient of each optimizer step by that at the perturbed weights."""

    name: ClassVar[str] = "sam"
    rho: float = field(default=0.05, metadata={"help": "Length of the move.", "above": 0})
    adaptive: bool = field(default=False, metadata={"help": "Whether each weight moves in proportion to its size (ASAM)."})
    batches: list[tuple[Any, Any, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list, init=False, repr=False)

    def check(self, trainer: Trainer) -> None:
        check_plain_gradients(trainer, self.name)
        if self.trainer is not trainer and "training_step" in vars(trainer):
            raise ValueError(f"{self.name}: something has replaced the trainer's training_step; leave one of them out")

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self.batches = []
        trainer.training_step = self.training_step  # type: ignore[method-assign]  # no fast loop runs around it then

    def end(self, trainer: Trainer) -> None:
        self.batches = []
        vars(trainer).pop("training_step", None)

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """As the trainer's; keeps the micro-batch for the second pass."""
        self.batches.append((model, dict(inputs) if isinstance(inputs, Mapping) else inputs, args, kwargs))
        return self._plain_step(model, inputs, *args, **kwargs)

    def _plain_step(self, *args: Any, **kwargs: Any) -> Tensor:
        step: Tensor = type(self.trainer).training_step(self.trainer, *args, **kwargs)  # of the class that it has now
        return step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer, batches, self.batches = self.trainer, self.batches, []
        parameters, gradients = zip(*((p, g) for _, p, g in with_gradients(kwargs["model"])), strict=True)
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for parameter, move in zip(parameters, ascents(parameters, gradients, self.rho, self.adaptive), strict=True):
                parameter.add_(move.to(parameter.dtype))
        kwargs["model"].zero_grad()
        with trainer.step_repeated(len(batches)) if isinstance(trainer, RadialMixin) else nullcontext():
            for model, inputs, more, named in batches:
                self._plain_step(model, inputs, *more, **named)
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)
        if args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(kwargs["model"].parameters(), args.max_grad_norm)
