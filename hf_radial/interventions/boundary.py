"""What interventions that act between two tasks have in common: when they are called, and what they draw from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention


def draw_seed(seed: int, step: int, place: int) -> int:
    """The seed of the draws for one parameter after one step of one run."""
    return ((seed * 1_000_003 + step) * 1_009 + place) % 2**63


def drawn_like(initial: Tensor, seed: int) -> Tensor:
    """Normal numbers of `initial`'s shape with its standard deviation and mean 0: a fresh initialisation, as to its size."""
    draws = torch.randn(initial.shape, generator=torch.Generator().manual_seed(seed))
    return draws.to(initial.device) * initial.std(correction=0)


@dataclass(eq=False)
class BoundaryIntervention(Intervention):
    """Acts at the end of each task: `at_boundary` says how.

    `ContinualCallback` knows where tasks end, and calls `on_task_end` of each callback there. Without one, `every` says after
    how many optimizer steps the intervention acts.
    """

    every: int = field(
        default=0,
        kw_only=True,
        metadata={"help": "Steps between two times; 0 for the end of each task, which ContinualCallback tells.", "at_least": 0},
    )

    def at_boundary(self, step: int, rows: Mapping[str, Any] | None) -> None:
        """Act, after an optimizer step. `rows`: training rows of the task that ends, `None` if no one tells."""
        raise NotImplementedError

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.every and state.global_step % self.every == 0:
            self.at_boundary(state.global_step, None)

    def on_task_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, rows: Mapping[str, Any], **kwargs: Any
    ) -> None:
        """A task has ended. An event of `ContinualCallback`."""
        if not self.every:
            self.at_boundary(state.global_step, rows)
