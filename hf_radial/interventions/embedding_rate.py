"""Embedding rate: give embeddings a learning rate, and a weight decay, apart from the rest.

Method: every `nn.Embedding` of the model gets groups of its own in the optimizer that `Trainer` makes, before the first step.

Source: after arXiv 2505.15624, which scales the learning rate of embeddings by a ratio.

Use: start with `embedding_rate:ratio=3`. It needs the optimizer that `Trainer` makes, not `muon` or one of your own.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.optim import check_no_optimizer


def set_apart(optimizer: Optimizer, parameters: Iterable[Tensor], ratio: float, weight_decay: float | None = None) -> None:
    """Give some parameters of an optimizer that has made no step groups of their own.

    Args:
        parameters: those; what the optimizer does not have is left out.
        ratio: their learning rate by that of the group in which they were.
        weight_decay: theirs; `None` leaves that of the group.
    """
    wanted = {id(parameter) for parameter in parameters}
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        own = [parameter for parameter in group["params"] if id(parameter) in wanted]
        rest = [parameter for parameter in group["params"] if id(parameter) not in wanted]
        if rest:
            optimizer.add_param_group({**group, "params": rest})
        if own:
            decay = group["weight_decay"] if weight_decay is None else weight_decay
            optimizer.add_param_group({**group, "params": own, "lr": group["lr"] * ratio, "weight_decay": decay})


@dataclass(eq=False)
class EmbeddingRate(Intervention):
    """Multiplies the learning rate of every `nn.Embedding` of the model."""

    name: ClassVar[str] = "embedding_rate"
    ratio: float = field(metadata={"help": "Learning rate of embeddings by that of the rest.", "above": 0, "example": 3})
    weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of embeddings; left out, that of the rest.", "at_least": 0}
    )

    def check(self, trainer: Trainer) -> None:
        if not embeddings_of(trainer.model):
            raise ValueError(f"{self.name}: {type(trainer.model).__name__} has no nn.Embedding")

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)
        super().attach(trainer)
        create = trainer.create_optimizer

        def create_optimizer(*args: Any, **kwargs: Any) -> Any:
            made = trainer.optimizer is None  # a second call returns what the first one made
            optimizer = create(*args, **kwargs)
            if made:
                set_apart(optimizer, embeddings_of(trainer.model), self.ratio, self.weight_decay)
            return optimizer

        trainer.create_optimizer = create_optimizer  # type: ignore[method-assign]


def embeddings_of(model: nn.Module | None) -> list[Tensor]:
    """The tables of a model's embeddings."""
    modules = [] if model is None else list(model.modules())
    return [module.weight for module in modules if isinstance(module, nn.Embedding)]
