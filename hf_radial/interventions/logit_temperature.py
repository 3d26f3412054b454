"""Logit temperature: divide the logits by a number.

Method: a temperature above 1 makes the logits that the loss sees shorter, one below 1 makes them longer; in training and in
evaluation.

Source: this package's control. A penalty shortens vectors and with them the logits; this does so alone.

Use: start with `logit_temperature:temperature=2`.

Saved model: weights that give undivided logits. The answers are the same, their probabilities are not. Call
`hf_radial.interventions.restore(model)` after `from_pretrained` to have the logits divided again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.heads import head_of
from hf_radial.interventions.options import describe
from hf_radial.sites.hooks import ModelHook, unhook


def divided(temperature: float, module: Any, args: Any, output: Tensor) -> Tensor:
    """A hook on the head."""
    return output / temperature


@dataclass(eq=False)
class LogitTemperature(Intervention):
    """Divides the logits, in training and in evaluation."""

    name: ClassVar[str] = "logit_temperature"
    swept: ClassVar[tuple[str, ...] | None] = ("temperature",)
    temperature: float = field(metadata={"help": "What the logits are divided by.", "above": 0, "example": 2})

    def check(self, trainer: Trainer) -> None:
        head_of(trainer.model)

    def change_member(self, member: Any) -> None:
        member.logit_temperature = self.temperature

    def put_in_force(self, model: Any) -> None:
        unhook(model, self.name)
        head_of(model).register_forward_hook(ModelHook(partial(divided, self.temperature), self.name))

    def text_to_restore(self) -> str:
        return describe(self)
