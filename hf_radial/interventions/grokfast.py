"""Grokfast: what is slow in the gradients is amplified (Lee et al., arXiv 2405.20233; github.com/ironjr/grokfast)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hf_radial.interventions.gradients import GradientIntervention


@torch.no_grad()
def filter_ema(gradient: Tensor, average: Tensor | None, alpha: float, lamb: float) -> Tensor:
    """`mu <- alpha mu + (1 - alpha) g`, then `g <- g + lamb mu` in place; returns `mu`, which starts as `g` (Algorithm 2)."""
    average = gradient.clone() if average is None else average.mul_(alpha).add_(gradient, alpha=1 - alpha)
    gradient.add_(average, alpha=lamb)
    return average


@torch.no_grad()
def filter_ma(gradient: Tensor, window: deque[Tensor], lamb: float, warmup: bool) -> None:
    """`g <- g + lamb mean(window)` in place, the window being the last gradients with this one (Algorithm 1).

    With `warmup`, not before the window (of `window.maxlen`) is full.
    """
    window.append(gradient.clone())
    if not warmup or len(window) == window.maxlen:
        gradient.add_(torch.stack(list(window)).mean(0), alpha=lamb)


@dataclass(eq=False)
class GrokfastEMA(GradientIntervention):
    """Grokfast with an exponential moving average. Once an optimizer step, behind clipping.

    Args:
        alpha: of the average, from 0 to below 1.
        lamb: how much of the average is added, at least 0.
    """

    name: ClassVar[str] = "grokfast_ema"
    alpha: float = 0.98
    lamb: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha={self.alpha} must be at least 0 and below 1")
        check_lamb(self.lamb)

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        self.remembered[name] = filter_ema(gradient, self.remembered.get(name), self.alpha, self.lamb)

    def tensors(self) -> dict[str, Tensor]:
        return self.remembered

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.remembered = tensors


@dataclass(eq=False)
class GrokfastMA(GradientIntervention):
    """Grokfast with the mean of a window of gradients, all of which are kept. Once an optimizer step, behind clipping.

    Args:
        window_size: gradients in the window, at least 1.
        lamb: how much of the mean is added, at least 0.
        warmup: nothing is added until the window is full.
    """

    name: ClassVar[str] = "grokfast_ma"
    window_size: int = 100
    lamb: float = 5.0
    warmup: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.window_size, int) or self.window_size < 1:
            raise ValueError(f"window_size={self.window_size} must be a whole number of at least 1")
        check_lamb(self.lamb)

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        window = self.remembered.setdefault(name, deque(maxlen=self.window_size))
        filter_ma(gradient, window, self.lamb, self.warmup)

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.stack(list(window)) for name, window in self.remembered.items()}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.remembered = {name: deque(stacked.unbind(), maxlen=self.window_size) for name, stacked in tensors.items()}


def check_lamb(lamb: float) -> None:
    """ValueError below 0."""
    if not lamb >= 0:
        raise ValueError(f"lamb={lamb} must be at least 0")
