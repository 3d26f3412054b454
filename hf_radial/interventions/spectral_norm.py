"""Spectral norm: divide each hidden matrix by its largest singular value.

Method: the model computes with `W / sigma(W)`. A step of the power method in each forward pass of training keeps up an estimate
of `sigma(W)`. The gradient goes through the division.

Source: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", arXiv 1802.05957.

Use: `spectral_norm`. `iterations=2` follows the largest singular value more closely.

Saved model: the divided matrices under their usual names, in the checkpoints, too. `from_pretrained` gives the model that was
trained. The undivided ones, with which a resumed run goes on, are in the checkpoint's `intervention_spectral_norm.safetensors`.
A second `train()` starts from the divided matrices, and divides them again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import wide
from hf_radial.interventions.heads import hidden_layers, matrix_of

FIRST_ITERATIONS = 15  # as torch's own parametrisation


class Divided(nn.Module):
    """`W / sigma(W)`; as `torch.nn.utils.parametrizations.spectral_norm`, in float32 or better, and zero for a zero matrix.

    Args:
        weight: the matrix.
        iterations: of the power method, in each call in training mode.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        matrix = wide(weight.detach())
        u, v = (matrix.new_empty(size).normal_() for size in matrix.shape)
        self.register_buffer("u", F.normalize(u, dim=0, eps=1e-12))
        self.register_buffer("v", F.normalize(v, dim=0, eps=1e-12))
        self.approach(matrix, FIRST_ITERATIONS)

    @torch.no_grad()
    def approach(self, matrix: Tensor, iterations: int) -> None:
        """Move `u` and `v` towards the singular vectors of the largest singular value."""
        for _ in range(iterations):
            self.u = F.normalize(torch.mv(matrix, self.v), dim=0, eps=1e-12, out=self.u)
            self.v = F.normalize(torch.mv(matrix.mT, self.u), dim=0, eps=1e-12, out=self.v)

    def divide(self, weight: Tensor) -> Tensor:
        """`W` divided by the estimate that there is."""
        matrix = wide(weight)
        sigma = torch.vdot(self.u.clone(), torch.mv(matrix, self.v.clone()))
        return (matrix / torch.where(sigma == 0, 1.0, sigma)).to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            self.approach(wide(weight), self.iterations)
        return self.divide(weight)


def save_divided(layer: Any, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """A hook on a layer's `state_dict`: the divided matrix under its usual name in the place of what it is made from."""
    inside = f"{prefix}parametrizations.weight."
    found = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(inside)}
    if found:
        part = layer.parametrizations.weight
        state_dict[f"{prefix}weight"] = part[0].divide(part.original).detach()


@dataclass(eq=False)
class SpectralNorm(Intervention):
    """Divides every hidden matrix by its largest singular value in training; at the end the quotient is the weight."""

    name: ClassVar[str] = "spectral_norm"
    remembers: ClassVar[str] = "the matrices before they were divided"
    iterations: int = field(default=1, metadata={"help": "Steps of the power method in each forward pass.", "at_least": 1})
    handles: list[RemovableHandle] = field(default_factory=list, init=False, repr=False)
    layers: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def check(self, trainer: Trainer) -> None:
        model: Any = trainer.model
        if not hidden_layers(model):
            raise ValueError(f"spectral_norm: {type(model).__name__} has no hidden matrices")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("spectral_norm: FSDP and DeepSpeed shard the matrices; use one process or DDP instead")

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        model: Any = trainer.model
        self.layers = hidden_layers(model)
        for layer in self.layers.values():
            parametrize.register_parametrization(layer, "weight", Divided(matrix_of(layer), self.iterations))
            self.handles.append(layer.register_state_dict_post_hook(save_divided))

    def end(self, trainer: Trainer) -> None:
        for handle in self.handles:
            handle.remove()
        for layer in self.layers.values():
            mode = layer.training
            layer.eval()  # no further step of the power method
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            layer.train(mode)
        self.handles, self.layers = [], {}

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Training is through. The best checkpoint, whose matrices are divided, may be loaded before `on_train_end`.
        if "train_runtime" in (kwargs.get("logs") or {}):
            self.end(self.trainer)

    def tensors(self) -> dict[str, Tensor]:
        parts = {name: layer.parametrizations.weight for name, layer in self.layers.items()}
        return {
            f"{name}.{what}": tensor
            for name, part in parts.items()
            for what, tensor in (("original", part.original), ("u", part[0].u), ("v", part[0].v))
        }

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        there = self.tensors()
        if there.keys() != tensors.keys():
            raise ValueError(f"it has the matrices {', '.join(sorted({name.rpartition('.')[0] for name in tensors}))}")
        with torch.no_grad():
            for name, tensor in there.items():
                tensor.copy_(tensors[name])
