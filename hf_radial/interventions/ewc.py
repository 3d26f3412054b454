"""EWC: hold each weight in proportion to how much the tasks so far depend on it.

Method: at the end of a task, adds the diagonal of its Fisher information to a running sum `F`, with the labels of the data, and
remembers the weights `theta*`. From then on, `strength / 2 * sum of F (theta - theta*)^2` is in the loss, as a gradient.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", arXiv 1612.00796; one anchor and one sum in
the place of one of each per task, as in Schwarz et al., "Progress & Compress", arXiv 1805.06370 (with gamma = 1).

Use: start with `ewc:strength=100` and a `ContinualCallback`, which tells it where tasks end; or give `every`. Tune the strength
over decades.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.boundary import BoundaryIntervention
from hf_radial.interventions.gradients import with_gradients
from hf_radial.sites.preserve import evaluating, preserve_random_state
from hf_radial.training.rows import first_rows


def ewc_gradient(parameter: Tensor, anchor: Tensor, fisher: Tensor, strength: float | Tensor) -> Tensor:
    """Gradient of `strength / 2 * sum of F (theta - theta*)^2`.

    >>> ewc_gradient(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([0.5]), 10.0)
    tensor([10.])
    """
    return strength * fisher * (parameter - anchor)


def fisher_diagonal(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean over rows of the squared gradient of a row's loss, by parameter: one backward pass per row."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
    rows = len(next(iter(batch.values())))
    for i in range(rows):
        loss = model(**{name: column[i : i + 1] for name, column in batch.items()}).loss
        for name, gradient in zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True):
            if gradient is not None:
                sums[name] += gradient.float().square()
    return {name: total / rows for name, total in sums.items()}


@dataclass(eq=False)
class EWC(BoundaryIntervention):
    """Adds the gradient of the quadratic penalty, after clipping."""

    name: ClassVar[str] = "ewc"
    remembers: ClassVar[str] = "the Fisher information and the weights of the last task"
    strength: float = field(metadata={"help": "Weight of the penalty.", "at_least": 0, "example": 100})
    rows: int = field(
        default=256, metadata={"help": "Training rows of a task that its Fisher information is from.", "at_least": 1}
    )
    fisher: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    anchor: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self.fisher, self.anchor = {}, {}

    def at_boundary(self, step: int, rows: Mapping[str, Any] | None) -> None:
        trainer = self.trainer
        batch = first_rows(trainer, self.rows) if rows is None else rows
        if batch is None:
            raise ValueError(
                "ewc: the training set has no rows with an index; use ContinualCallback with rows=..., which gives some"
            )
        first = {name: column[: self.rows] for name, column in batch.items() if isinstance(column, Tensor)}
        with preserve_random_state(), evaluating(trainer.model), torch.enable_grad():
            found = fisher_diagonal(trainer.model, first)
        self.fisher = {name: self.fisher.get(name, 0) + one for name, one in found.items()}
        self.anchor = {name: p.detach().float().clone() for name, p in trainer.model.named_parameters() if name in found}

    @torch.no_grad()
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, parameter, gradient in with_gradients(kwargs["model"]):
            if name in self.fisher:
                more = ewc_gradient(parameter.float(), self.anchor[name], self.fisher[name], self.strength)
                gradient.add_(more.to(gradient.dtype))

    def tensors(self) -> dict[str, Tensor]:
        kinds = (("fisher", self.fisher), ("anchor", self.anchor))
        found = {f"{kind}.{name}": tensor for kind, given in kinds for name, tensor in given.items()}
        return found or {"none": torch.zeros(1)}  # no task has ended yet

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        shapes = {name: p.shape for name, p in self.trainer.model.named_parameters()}
        found = {name: tensor for name, tensor in tensors.items() if name != "none"}
        for name, tensor in found.items():
            if shapes.get(name.partition(".")[2]) != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, which no parameter of the model has")
        self.fisher, self.anchor = (
            {name.partition(".")[2]: tensor for name, tensor in found.items() if name.startswith(f"{kind}.")}
            for kind in ("fisher", "anchor")
        )
