"""Muon: move hidden matrices by orthogonalised momentum, and everything else by AdamW.

Method: the optimizer is `torch.optim.Muon` for the hidden matrices, with the step length of Moonlight, so that a learning rate
means what it means to AdamW. Embeddings, the head, biases and norms get `torch.optim.AdamW`. Learning rate, weight decay, betas
and schedule are those of the trainer's arguments. (`pytorch_optimizer.Muon` has both groups in one, but no schedule reaches the
learning rate of its second group.)

Source: Jordan et al., kellerjordan.github.io/posts/muon; the step length from "Muon is Scalable for LLM Training", arXiv
2502.16982.

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
from hf_radial.interventions.optim import check_no_optimizer


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
        model, chosen = trainer.model, trainer.optimizer_cls_and_kwargs
        if self.trainer is not trainer:
            check_no_optimizer(trainer, self.name)
        elif chosen is None or chosen[1].get("method") is not self:
            raise ValueError("muon: the trainer was given another optimizer after it; leave one of them out")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("muon: FSDP and DeepSpeed are not supported; use one process or DDP")
        if model is None:
            raise ValueError("muon: the trainer has no model")
        if not hidden_matrices(model):
            raise ValueError(f"muon: {type(model).__name__} has no hidden matrices that are trained")
        if any(p.dtype == torch.float16 and p.requires_grad for p in model.parameters()):
            raise ValueError("muon: in float16 weights AdamW's epsilon is zero and steps become NaN; use bfloat16 or float32")

    def attach(self, trainer: Trainer) -> None:
        super().attach(trainer)
        # As `Trainer` has it for optimizers that share the parameters out: called with the model, once there is none.
        trainer.optimizer_cls_and_kwargs = (_factory, {"method": self, "trainer": trainer})  # type: ignore[assignment]

    def optimizer(self, model: Any, trainer: Trainer) -> MuonAndAdamW:
        """Both optimizers for the parameters of `model`."""
        args, matrices = trainer.args, hidden_matrices(model)
        hidden, decayed = {id(p) for p in matrices}, set(trainer.get_decay_parameter_names(model))
        others: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in model.named_parameters():
            if id(parameter) not in hidden and parameter.requires_grad:
                others[name in decayed].append(parameter)
        rate, decay = args.learning_rate, args.weight_decay
        muon = torch.optim.Muon(
            matrices,
            lr=rate,
            weight_decay=decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        groups = [{"params": params, "weight_decay": decay if yes else 0.0} for yes, params in others.items() if params]
        adamw = torch.optim.AdamW(groups, lr=rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
        return MuonAndAdamW([muon, adamw])


def _factory() -> Any:
    return lambda model, method, trainer: method.optimizer(model, trainer)
