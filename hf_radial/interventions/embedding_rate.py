"""Embedding rate: a learning rate, and a weight decay, of embeddings apart from the rest.

Method: the parameters of every `nn.Embedding` get groups of their own in the trainer's optimizer. The schedule multiplies their
learning rate as it does that of the rest.

Source: arXiv 2505.15624.

Use: tune `ratio` from 0.1 to 10, as in `embedding_rate:ratio=3`. It works with any optimizer that the trainer makes from its
arguments.

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
        optimizer: the optimizer.
        parameters: the parameters; those that the optimizer does not have are left out.
        ratio: their learning rate, as a multiple of that of the group in which they were.
        weight_decay: their weight decay; `None` leaves that of the group.
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


def embeddings_of(model: Any) -> list[Tensor]:
    """The parameters of every `nn.Embedding`."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]


@dataclass(eq=False)
class EmbeddingRate(Intervention):
    """Multiplies the learning rate of every `nn.Embedding` of the model."""

    name: ClassVar[str] = "embedding_rate"
    swept: ClassVar[tuple[str, ...] | None] = ("ratio", "weight_decay")
    ratio: float = field(
        metadata={"help": "Learning rate of embeddings, as a multiple of that of the rest.", "above": 0, "example": 3}
    )
    weight_decay: float | None = field(
        default=None,
        metadata={"help": "Weight decay of embeddings; that of the rest otherwise.", "at_least": 0, "example": 0.1},
    )

    def check(self, trainer: Trainer) -> None:
        if trainer.model is None or not embeddings_of(trainer.model):
            raise ValueError(f"{self.name}: {type(trainer.model).__name__} has no nn.Embedding")
        if self.trainer is not trainer:
            check_no_optimizer(trainer, self.name)
        elif trainer.optimizer_cls_and_kwargs is not None:
            raise ValueError(f"{self.name}: the trainer was given another optimizer after it; leave one of them out")

    def change_member(self, member: Any) -> None:
        member.embedding_rate, member.embedding_weight_decay = self.ratio, self.weight_decay

    def attach(self, trainer: Trainer) -> None:
        super().attach(trainer)
        trainer.create_optimizer = self.create_optimizer  # type: ignore[method-assign]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.create_optimizer`, with the embeddings of the trainer's model set apart."""
        made = self.trainer.optimizer is None  # a second call returns the first one's
        optimizer = type(self.trainer).create_optimizer(self.trainer, *args, **kwargs)
        if made:
            set_apart(optimizer, embeddings_of(self.trainer.model), self.ratio, self.weight_decay)
        return optimizer
