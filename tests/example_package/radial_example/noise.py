"""Sign noise: turn the sign of a few gradients.

Method: before each step of the optimizer, each gradient is multiplied by -1 with probability `p`.

Source: an example of this package.

Use: `sign_noise:p=0.01`.

Saved model: the same function. It loads with `from_pretrained` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from hf_radial.interventions.base import Intervention


@dataclass(eq=False)
class SignNoise(Intervention):
    """Multiplies each gradient by -1 with probability `p`."""

    name: ClassVar[str] = "sign_noise"
    p: float = field(default=0.01, metadata={"help": "Probability of a turned sign.", "at_least": 0, "at_most": 1})

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        draw = torch.Generator().manual_seed(state.global_step)
        for parameter in self.trainer.model.parameters():
            if parameter.grad is not None:
                turned = torch.rand(parameter.shape, generator=draw).to(parameter.device) < self.p
                parameter.grad[turned] *= -1
