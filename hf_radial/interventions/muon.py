"""Muon: move hidden matrices by orthogonalised momentum, and everything else by AdamW.

Method: the optimizer is `torch.optim.Muon` for the hidden matrices, with the step length of Moonlight, so that a learning rate
means what it means to AdamW. Embeddings, the head, biases and norms get `torch.optim.AdamW`. Learning rate, weight decay, betas
and schedule are those of the trainer's arguments. (`pytorch_optimizer.Muon` has both groups in one, but no schedule reaches the
learning rate of its second group.)

Source: Jordan et al., kellerjordan.github.io/posts/muon; the step length from "Muon is Scalable for LLM Training", arXiv
2502.16982. Tveit et al., arXiv 2504.16041, report that Muon groks earlier than AdamW. Essential AI, "Muon Doesn't Clearly Grok
Faster", essential.ai/blog/grokking (2025), found the same under some settings, and no advantage over a wider range of
hyperparameters and model sizes: a comparison at one setting does not tell.

Use: `muon`, with the learning rate that you would give AdamW. Not with float16 weights, in which AdamW's epsilon is zero: use
bfloat16 or float32.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.heads import hidden_layers, matrix_of
from hf_radial.interventions.optim import check_own_optimizer, decay_groups, own_optimizer


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers as one, for `Trainer` and its schedules; each parameter belongs to one of them."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        # The same dictionaries: what a schedule writes into them is what the parts read.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for part in self.parts:
            part.step()
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon moves."""
    hidden = {id(matrix_of(layer)) for layer in hidden_layers(model).values()}
    return [p for p in model.parameters() if id(p) in hidden and p.requires_grad]


@dataclass(eq=False)
class Muon(Intervention):
    """Replaces the trainer's optimizer; learning rate, weight decay and betas are those of its arguments."""

    name: ClassVar[str] = "muon"
    momentum: float = field(
        default=0.95, metadata={"help": "Weight of the past in Muon's momentum.", "at_least": 0, "below": 1}
    )
    nesterov: bool = field(default=True, metadata={"help": "Whether the momentum looks one step ahead."})

    def check(self, trainer: Trainer) -> None:
        check_own_optimizer(trainer, self)
        model: Any = trainer.model
        if not hidden_matrices(model):
            raise ValueError(f"muon: {type(model).__name__} has no hidden matrices that are trained")

    def attach(self, trainer: Trainer) -> None:
        super().attach(trainer)
        own_optimizer(trainer, self)

    def optimizer(self, model: Any, trainer: Trainer) -> MuonAndAdamW:
        """Both optimizers for the parameters of `model`."""
        args, matrices = trainer.args, hidden_matrices(model)
        muon = torch.optim.Muon(
            matrices,
            lr=args.learning_rate,
            weight_decay=args.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        groups = decay_groups(trainer, model, {id(p) for p in matrices})
        betas = (args.adam_beta1, args.adam_beta2)
        adamw = torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
        return MuonAndAdamW([muon, adamw])
