"""Grokfast: amplify the slow part of the gradients.

Method: keep an average of each parameter's gradients over time, and add a multiple of it to the gradient before the optimizer
step. What changes slowly over the steps weighs more, what changes quickly weighs less.

Source: Lee et al., "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", arXiv 2405.20233; code at
github.com/ironjr/grokfast.

Use: start with `grokfast_ema:alpha=0.98,lamb=2`, the authors' choice for modular arithmetic. Tune `lamb` and the weight decay
together. `grokfast_ma` keeps `window_size` copies of all gradients in memory; `grokfast_ema` keeps one, in float32.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from hf_radial.interventions.gradients import GradientIntervention, wide


@torch.no_grad()
def filter_ema(gradient: Tensor, average: Tensor | None, alpha: float, lamb: float) -> Tensor:
    """`mu <- alpha mu + (1 - alpha) g`, then `g <- g + lamb mu` in place; returns `mu`, which starts as `g` (Algorithm 2).

    `mu` is in float32 or better: in bfloat16, steps of `1 - alpha` are lost in rounding.
    """
    average = wide(gradient).clone() if average is None else average.mul_(alpha).add_(gradient, alpha=1 - alpha)
    gradient.add_(average, alpha=lamb)
    return average


@torch.no_grad()
def filter_ma(gradient: Tensor, window: deque[Tensor], lamb: float, warmup: bool) -> None:
    """`g <- g + lamb mean(window)` in place; the window holds the last gradients and this one (Algorithm 1).

    With `warmup`, nothing is added until the window has `window.maxlen` gradients.
    """
    window.append(gradient.clone())
    if not warmup or len(window) == window.maxlen:
        gradient.add_(wide(torch.stack(list(window))).mean(0), alpha=lamb)


@dataclass(eq=False)
class GrokfastEMA(GradientIntervention):
    """Grokfast with an exponential moving average, once an optimizer step, after clipping."""

    name: ClassVar[str] = "grokfast_ema"
    remembers: ClassVar[str] = "the moving average of the gradients"
    alpha: float = field(
        default=0.98, metadata={"help": "Weight of the past in the moving average.", "at_least": 0, "below": 1}
    )
    lamb: float = field(default=2.0, metadata={"help": "How much of the average is added to the gradient.", "at_least": 0})

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        self.remembered[name] = filter_ema(gradient, self.remembered.get(name), self.alpha, self.lamb)


@dataclass(eq=False)
class GrokfastMA(GradientIntervention):
    """Grokfast with the mean of a window of gradients, all of which are kept; once an optimizer step, after clipping."""

    name: ClassVar[str] = "grokfast_ma"
    remembers: ClassVar[str] = "the window of the last gradients"
    window_size: int = field(default=100, metadata={"help": "Gradients in the window.", "at_least": 1})
    lamb: float = field(default=5.0, metadata={"help": "How much of the mean is added to the gradient.", "at_least": 0})
    warmup: bool = field(default=True, metadata={"help": "Whether nothing is added until the window is full."})

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        window = self.remembered.setdefault(name, deque(maxlen=self.window_size))
        filter_ma(gradient, window, self.lamb, self.warmup)

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.stack(list(window)) for name, window in self.remembered.items()}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.check_names(tensors, axes=1)
        self.remembered = {name: deque(stacked.unbind(), maxlen=self.window_size) for name, stacked in tensors.items()}
