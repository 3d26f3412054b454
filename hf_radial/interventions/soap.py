"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Method: the optimizer is `pytorch_optimizer.SOAP`. It keeps the second moments of each matrix's gradient by rows and by columns,
and runs Adam in their eigenbases, which it updates every `frequency` steps. Learning rate, weight decay, betas and schedule are
those of the trainer's arguments. The first step only starts the preconditioner.

Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321; code at github.com/nikhilvyas/SOAP.

Where the first gradient of a matrix has not full rank, rounding decides part of the eigenbasis, and runs that should be equal
differ.

Use: `soap`, with `pip install 'hf_radial[interventions]'`. The authors use a learning rate of 3e-3 and betas of 0.95 and 0.95.
Not with float16 weights, in which Adam's epsilon is zero, nor with bfloat16 weights, of which no eigenbasis can be computed:
use float32, with `bf16=True` if you like.

Saved model: weights alone. `from_pretrained` gives the model that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import Trainer

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.optim import check_own_optimizer, decay_groups, own_optimizer


@dataclass(eq=False)
class SOAP(Intervention):
    """Replaces the trainer's optimizer; learning rate, weight decay and betas are those of its arguments."""

    name: ClassVar[str] = "soap"
    frequency: int = field(default=10, metadata={"help": "Steps between two updates of the eigenbases.", "at_least": 1})

    def check(self, trainer: Trainer) -> None:
        check_own_optimizer(trainer, self)
        try:
            import pytorch_optimizer  # noqa: F401
        except ImportError as error:
            raise ValueError("soap: it needs a package: pip install 'hf_radial[interventions]'") from error
        model: Any = trainer.model
        if any(p.dtype == torch.bfloat16 and p.requires_grad for p in model.parameters()):
            raise ValueError("soap: no eigenbasis can be computed of bfloat16 weights; use float32, with bf16=True if you like")

    def attach(self, trainer: Trainer) -> None:
        super().attach(trainer)
        own_optimizer(trainer, self)

    def optimizer(self, model: Any, trainer: Trainer) -> Any:
        """The optimizer for the parameters of `model`."""
        from pytorch_optimizer import SOAP as Optimizer

        args = trainer.args
        return Optimizer(
            decay_groups(trainer, model),
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
            precondition_frequency=self.frequency,
        )
