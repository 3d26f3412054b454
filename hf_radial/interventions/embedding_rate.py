"""A learning rate, and a weight decay, of embeddings apart from the rest (arXiv 2505.15624)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    """Multiplies the learning rate of every `nn.Embedding` of the model.

    Args:
        ratio: above 0; 1 is no change.
        weight_decay: of embeddings, at least 0; left out, that of the rest.
    """

    name: ClassVar[str] = "embedding_rate"
    ratio: float
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ValueError(f"ratio={self.ratio} must be above 0")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)
        model = trainer.model
        embeddings = [] if model is None else [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
        if not embeddings:
            raise ValueError(f"{self.name}: {type(model).__name__} has no nn.Embedding")
        create = trainer.create_optimizer

        def create_optimizer(*args: Any, **kwargs: Any) -> Any:
            made = trainer.optimizer is None  # a second call returns the first one's
            optimizer = create(*args, **kwargs)
            if made:
                set_apart(optimizer, embeddings, self.ratio, self.weight_decay)
            return optimizer

        trainer.create_optimizer = create_optimizer  # type: ignore[method-assign]
        super().attach(trainer)
