"""What interventions on gradients have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.heads import hidden_layers, input_axes


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or better. In half precision, guards against zero are zero and averages stand still."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def with_gradients(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """Name, parameter and gradient of each parameter that has a gradient."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name.removeprefix("module."), parameter, parameter.grad


def check_plain_gradients(trainer: Trainer, name: str) -> None:
    """Raise a ValueError for a trainer whose callbacks see other gradients than those that its optimizer will use."""
    if trainer.accelerator.scaler is not None:
        raise ValueError(f"{name}: fp16=True scales the gradients before callbacks see them; use bf16=True or float32 instead")
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(f"{name}: FSDP and DeepSpeed shard the gradients; use one process or DDP instead")


@dataclass(eq=False)
class GradientIntervention(Intervention):
    """Changes every gradient once an optimizer step, after clipping; `change` says how.

    Attributes:
        remembered: from step to step, by the parameter's name; empty at the start of each training. If it is more than one
            tensor of the parameter's shape, in float32 or better, override `tensors` and `set_tensors`.
    """

    remembered: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Change `gradient` in place."""
        raise NotImplementedError

    def check(self, trainer: Trainer) -> None:
        check_plain_gradients(trainer, self.name)

    def begin(self, trainer: Trainer) -> None:
        self.remembered = {}
        super().begin(trainer)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, parameter, gradient in with_gradients(kwargs["model"]):
            self.change(name, parameter, gradient)

    def tensors(self) -> dict[str, Tensor]:
        return self.remembered

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.check_names(tensors)
        self.remembered = {name: wide(tensor) for name, tensor in tensors.items()}

    def check_names(self, tensors: dict[str, Tensor], axes: int = 0) -> None:
        """Raise a ValueError unless the model has these parameters, of these shapes behind the first `axes` axes."""
        shapes = {name.removeprefix("module."): p.shape for name, p in self.trainer.model.named_parameters()}
        for name, tensor in tensors.items():
            if shapes.get(name) != tensor.shape[axes:]:
                raise ValueError(f"{name} has shape {tuple(tensor.shape[axes:])} there and {shapes.get(name)} in the model")


@dataclass(eq=False)
class MatrixGradientIntervention(GradientIntervention):
    """Changes the gradients of the hidden matrices, neither those of embeddings nor that of the head.

    Attributes:
        axes: the axis of the inputs of each of these matrices, by the parameter's `id`.
    """

    axes: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def changed(self, gradient: Tensor, axis: int) -> Tensor:
        """What takes the place of a matrix's gradient, in float32 or better.

        Args:
            gradient: shape `(out, in)`, or `(in, out)` where `axis` is 0; in float32 or better.
            axis: that of the inputs.
        """
        raise NotImplementedError

    def check(self, trainer: Trainer) -> None:
        super().check(trainer)
        if trainer.model is None or not hidden_layers(trainer.model):
            raise ValueError(f"{self.name}: {type(trainer.model).__name__} has no hidden matrices")

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        model: Any = trainer.model
        self.axes = input_axes(hidden_layers(model).values())

    @torch.no_grad()
    def change(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        if id(parameter) in self.axes:
            gradient.copy_(self.changed(wide(gradient), self.axes[id(parameter)]))
