"""Grokfast: what is slow in the gradients is amplified (Lee et al., arXiv 2405.20233; github.com/ironjr/grokfast)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import check_gradients, with_gradients


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
class GrokfastEMA(Intervention):
    """Grokfast with an exponential moving average. Once an optimizer step, behind clipping.

    Args:
        alpha: of the average, from 0 to below 1.
        lamb: how much of the average is added, at least 0.
    """

    name: ClassVar[str] = "grokfast_ema"
    alpha: float = 0.98
    lamb: float = 2.0
    averages: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha={self.alpha} must be at least 0 and below 1")
        if not self.lamb >= 0:
            raise ValueError(f"lamb={self.lamb} must be at least 0")

    def attach(self, trainer: Trainer) -> None:
        check_gradients(trainer, self.name)
        super().attach(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.averages = {}
        super().on_train_begin(args, state, control, **kwargs)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, _, gradient in with_gradients(kwargs["model"]):
            self.averages[name] = filter_ema(gradient, self.averages.get(name), self.alpha, self.lamb)

    def tensors(self) -> dict[str, Tensor]:
        return self.averages

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.averages = tensors


@dataclass(eq=False)
class GrokfastMA(Intervention):
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
    windows: dict[str, deque[Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.window_size, int) or self.window_size < 1:
            raise ValueError(f"window_size={self.window_size} must be a whole number of at least 1")
        if not self.lamb >= 0:
            raise ValueError(f"lamb={self.lamb} must be at least 0")

    def attach(self, trainer: Trainer) -> None:
        check_gradients(trainer, self.name)
        super().attach(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.windows = {}
        super().on_train_begin(args, state, control, **kwargs)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, _, gradient in with_gradients(kwargs["model"]):
            window = self.windows.setdefault(name, deque(maxlen=self.window_size))
            filter_ma(gradient, window, self.lamb, self.warmup)

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.stack(list(window)) for name, window in self.windows.items()}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.windows = {name: deque(stacked.unbind(), maxlen=self.window_size) for name, stacked in tensors.items()}
