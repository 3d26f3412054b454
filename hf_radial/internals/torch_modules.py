"""Private attributes of torch's modules, operations and storages. Checked with torch 2.11 to 2.13."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # in the names of parameters, of torch.compile and of checkpointing


def forward_hooks(module: nn.Module) -> Iterator[dict[int, Any]]:
    """The dictionaries of a module's hooks: before its forward, and after it. They may be changed.

    A handle of `register_forward_hook` finds its hook only in the module on which it was registered. A copy of a model has the
    hooks and no handles.
    """
    yield module._forward_pre_hooks
    yield module._forward_hooks


def is_compiled(model: nn.Module) -> bool:
    """Whether the model or a part of it is compiled, in place or by `torch.compile`."""
    return any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())


def plain_name(name: str) -> str:
    """The name of a parameter without the wrappers of compiled and checkpointed modules.

    >>> plain_name("_orig_mod.layers.0._checkpoint_wrapped_module.weight")
    'layers.0.weight'
    """
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def operation(func: Any) -> str:
    """The name of an operation that `__torch_dispatch__` receives, without namespace and overload: `"add_"`."""
    return str(func._schema.name.split("::")[-1])


def writes(func: Any) -> bool:
    """Whether such an operation writes into one of its arguments."""
    return bool(func._schema.is_mutable)


def storage_of(tensor: Tensor) -> int:
    """A number that tensors with the same storage share while they live."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a tensor without a storage is its own
        return id(tensor)


def fused_adam_step(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: Tensor,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One step of Adam without weight decay, in place, with the kernel of `torch.optim.AdamW(fused=True)`.

    Args:
        first, second: the moments, of the parameter's shape. They change, too.
        step: the number of this step, from 1, as a scalar.
    """
    torch._fused_adamw_(
        [parameter],
        [gradient],
        [first],
        [second],
        [],
        [step],
        lr=learning_rate,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )
