"""ReDo: give new weights to hidden units that no longer answer.

Method: every `every` steps, the score of a unit is its mean activation on the batch (of all micro-batches and processes),
divided by that of its layer. A unit with a score of at most `threshold` gets new incoming weights and zero outgoing weights,
and the optimizer's moments of both are set to zero. New weights are normal with the standard deviation that the layer's weights
had at the start of training. Their biases become 0.

Source: Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", arXiv 2302.12902.

Use: start with `redo:threshold=0.025,every=100`, in a sequence of tasks. It works on this package's MLPs, which have `hidden`
layers with a ReLU and a `classifier`.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.boundary import draw_seed, drawn_like
from hf_radial.interventions.gradients import wide
from hf_radial.sites.hooks import Hook, unhook


def dormant(activation: Tensor, threshold: float | Tensor) -> Tensor:
    """Which units are dormant: their activation is at most `threshold` times the mean over the units of their layer.

    Args:
        activation: of each unit after the ReLU, the mean or sum over rows, `(..., units)`.
        threshold: a number, or a tensor that broadcasts with `(..., 1)`.

    >>> dormant(torch.tensor([0.05, 1.0, 3.0]), 0.1)
    tensor([ True, False, False])
    """
    return activation <= threshold * activation.mean(-1, keepdim=True)


def recycle(incoming: Tensor, bias: Tensor, outgoing: Tensor, which: Tensor, fresh: Tensor) -> None:
    """Give units new weights, in place. Leading axes are members.

    Args:
        incoming: `(..., units, inputs)`.
        bias: `(..., units)`.
        outgoing: `(..., outputs, units)`.
        which: `(..., units)` of truth values.
        fresh: new incoming weights, `(..., units, inputs)`.
    """
    incoming.copy_(torch.where(which.unsqueeze(-1), fresh, incoming))
    bias.masked_fill_(which, 0.0)
    outgoing.masked_fill_(which.unsqueeze(-2), 0.0)


@dataclass(eq=False)
class ReDo(Intervention):
    """Recycles dormant units after an optimizer step, by the batch of that step."""

    name: ClassVar[str] = "redo"
    remembers: ClassVar[str] = "the standard deviations of the weights at the start of training"
    threshold: float = field(default=0.025, metadata={"help": "Score up to which a unit is dormant.", "at_least": 0})
    every: int = field(default=100, metadata={"help": "Steps between two times.", "at_least": 1})
    seen: dict[int, list[Tensor]] = field(default_factory=dict, init=False, repr=False)
    initial: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def check(self, trainer: Trainer) -> None:
        model: Any = trainer.model
        if not hasattr(model, "hidden") or not hasattr(model, "classifier"):
            raise ValueError(f"redo: {type(model).__name__} has no layers `hidden` and `classifier`; this package's MLPs have")

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        model: Any = trainer.model
        self.seen = {}
        self.initial = [layer.weight.detach().clone() for layer in model.hidden]

        def keep(i: int, module: Any, args: Any, output: Tensor) -> None:
            if module.training:
                activation = output.detach().relu().flatten(0, -2)
                self.seen.setdefault(i, []).append(wide(activation).sum(0))  # one for each micro-batch

        norms = getattr(model, "norms", None)
        for i, layer in enumerate(model.hidden if norms is None else norms):
            layer.register_forward_hook(Hook(partial(keep, i), self.name))

    def end(self, trainer: Trainer) -> None:
        if trainer.model is not None:
            unhook(trainer.model, self.name)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.seen = {}  # what is measured between steps does not count

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        seen, self.seen = self.seen, {}
        if state.global_step % self.every:
            return
        model = self.trainer.model
        layers = [*model.hidden, model.classifier]
        for i, (layer, after) in enumerate(pairwise(layers)):
            activation = torch.stack(seen[i]).sum(0)
            # Summed over processes: otherwise each would give new weights to units of its own.
            which = dormant(self.trainer.accelerator.reduce(activation, reduction="sum"), self.threshold)
            fresh = drawn_like(self.initial[i], draw_seed(args.seed, state.global_step, i))
            recycle(layer.weight, layer.bias, after.weight, which, fresh.to(layer.weight.dtype))
            for parameter, where in (
                (layer.weight, which.unsqueeze(-1)),
                (layer.bias, which),
                (after.weight, which.unsqueeze(-2)),
            ):
                for moment in self.trainer.optimizer.state.get(parameter, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                        moment.masked_fill_(where, 0.0)

    def tensors(self) -> dict[str, Tensor]:
        return {f"hidden.{i}": tensor for i, tensor in enumerate(self.initial)}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.initial = [tensors[f"hidden.{i}"] for i in range(len(self.initial))]
