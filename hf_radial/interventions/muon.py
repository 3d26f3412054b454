"""Muon: hidden matrices move by orthogonalised momentum (Jordan et al., kellerjordan.github.io/posts/muon), the rest by AdamW.

The update is `torch.optim.Muon`, with the step length of Moonlight (arXiv 2502.16982), so that a learning rate means what it
means to AdamW. `pytorch_optimizer.Muon` has both groups in one, but the learning rate of its second group is no schedule's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.heads import hidden_layers
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


@dataclass(eq=False)
class Muon(Intervention):
    """Replaces the trainer's optimizer; learning rate, weight decay and betas are those of its arguments.

    Args:
        momentum: of Muon, at least 0 and below 1.
        nesterov: whether the momentum looks ahead.
    """

    name: ClassVar[str] = "muon"
    momentum: float = 0.95
    nesterov: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must be at least 0 and below 1")

    def attach(self, trainer: Trainer) -> None:
        check_no_optimizer(trainer, self.name)
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("muon: FSDP and DeepSpeed are not supported; use one process or DDP")
        args, model = trainer.args, trainer.model
        if model is None:
            raise ValueError("muon: the trainer has no model")
        hidden = {id(layer.weight) for layer in hidden_layers(model).values()}
        matrices = [p for p in model.parameters() if id(p) in hidden and p.requires_grad]
        if not matrices:
            raise ValueError(f"muon: {type(model).__name__} has no hidden matrices")
        decayed = set(trainer.get_decay_parameter_names(model))
        others: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
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
        trainer.optimizer = MuonAndAdamW([muon, adamw])
        super().attach(trainer)
