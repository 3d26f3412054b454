"""Shrink and perturb: between two tasks, make all weights smaller and add noise.

Method: `theta <- (1 - shrink) theta + noise * e`, where `e` is normal with the standard deviation that this tensor had at the
start of training. A tensor that starts constant, such as the scales of a norm, gets no noise.

Source: Ash & Adams, "On Warm-Starting Neural Network Training", arXiv 1910.08475.

Use: start with `shrink_perturb:shrink=0.1,noise=0.1` and a `ContinualCallback`, which tells it where tasks end; or give
`every`. Tune both.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer

from hf_radial.interventions.boundary import BoundaryIntervention, draw_seed, drawn_like


def shrink_and_perturb(parameter: Tensor, draw: Tensor, shrink: float | Tensor, noise: float | Tensor) -> None:
    """Change a parameter in place; `draw` is of the size of its initial values."""
    parameter.copy_((1 - shrink) * parameter + noise * draw)


@dataclass(eq=False)
class ShrinkPerturb(BoundaryIntervention):
    """Shrinks and perturbs all trained parameters at the end of each task. The optimizer's state stays."""

    name: ClassVar[str] = "shrink_perturb"
    remembers: ClassVar[str] = "the weights at the start of training"
    shrink: float = field(default=0.1, metadata={"help": "Share of each weight that is taken away.", "at_least": 0, "below": 1})
    noise: float = field(default=0.1, metadata={"help": "Size of the noise, in initial standard deviations.", "at_least": 0})
    initial: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        model: Any = trainer.model
        self.initial = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def at_boundary(self, step: int, rows: Mapping[str, Any] | None) -> None:
        named = ((name, p) for name, p in self.trainer.model.named_parameters() if name in self.initial)
        for place, (name, parameter) in enumerate(named):  # the model's order: a checkpoint has another
            draw = drawn_like(self.initial[name].float(), draw_seed(self.trainer.args.seed, step, place))
            shrink_and_perturb(parameter, draw.to(parameter.dtype), self.shrink, self.noise)

    def tensors(self) -> dict[str, Tensor]:
        return self.initial

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        if tensors.keys() != self.initial.keys():
            raise ValueError(f"it has the parameters {', '.join(sorted(tensors))}")
        self.initial = dict(tensors)
