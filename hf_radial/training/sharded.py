"""The whole model if its weights are sharded (FSDP 2), and the main process's values in every process.

It relies on two things of torch: `copy.deepcopy` with a memo of parameters makes a model with other weights, and
`DTensor.full_tensor` gathers one. `tests/training/test_sharded.py` checks both with two processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer

from hf_radial.internals.torch_modules import plain_name


def check_sharding(trainer: Trainer) -> None:
    """Raise a ValueError if the weights of a trainer that is about to train cannot be gathered."""
    if trainer.is_deepspeed_enabled and getattr(trainer.args.hf_deepspeed_config, "is_zero3", lambda: False)():
        raise ValueError("GeometryCallback: weights that ZeRO-3 has sharded cannot be measured; use ZeRO-2 or FSDP 2")
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in trainer.model_wrapped.modules()):
        raise ValueError("GeometryCallback: weights that FSDP 1 has sharded cannot be measured; set fsdp_version: 2")


def skeleton_of(trainer: Trainer) -> nn.Module | None:
    """A copy of the model without weights, made before they are sharded; `None` if they will not be sharded."""
    if not trainer.is_fsdp_enabled or trainer.model is None:
        return None
    bare = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in trainer.model.parameters()}
    return copy.deepcopy(trainer.model, bare)


@contextmanager
def gathered(trainer: Trainer, skeleton: nn.Module | None) -> Iterator[nn.Module]:
    """The whole model: the trainer's own, or a copy of `skeleton` with all weights if they are sharded.

    Raises:
        ValueError: weights are sharded, and there is no skeleton.
    """
    model: Any = trainer.model
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        yield model
        return
    if skeleton is None:
        raise ValueError("GeometryCallback: weights are sharded; give the callback to the trainer when it is made")
    whole = {}
    values = {plain_name(name): p for name, p in model.named_parameters()}
    for name, p in skeleton.named_parameters():
        value = values[name].detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value
        whole[id(p)] = nn.Parameter(value.to(trainer.args.device), p.requires_grad)
    yield copy.deepcopy(skeleton, whole).to(trainer.args.device)


def from_main(values: list[Any]) -> list[Any]:
    """The main process's values, in every process."""
    return broadcast_object_list(values) if torch.distributed.is_initialized() else values
