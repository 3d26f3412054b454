"""Which layer of a model gives its logits, which matrices lie before it, and which axis of a matrix is that of its units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.pytorch_utils import Conv1D

NAMES = ("lm_head", "classifier", "score")


def head_of(model: Any) -> nn.Module:
    """The layer whose output is the logits.

    Raises:
        ValueError: none is known.
    """
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    for name in NAMES:
        head = head if isinstance(head, nn.Module) else getattr(model, name, None)
    if not isinstance(head, nn.Module):
        raise ValueError(f"{type(model).__name__} has no layer of logits that is known: {', '.join(NAMES)}")
    return head


def matrix_of(layer: Any) -> Any:
    """The parameter that a layer's weight is, or is made from."""
    return layer.parametrizations.weight.original if is_parametrized(layer, "weight") else getattr(layer, "weight", None)


def hidden_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with a matrix for a weight that are neither embedding nor head (linear ones, and GPT-2's `Conv1D`)."""
    head = head_of(model)
    found = {}
    for name, module in model.named_modules():
        matrix = matrix_of(module)
        if (
            isinstance(matrix, nn.Parameter)
            and matrix.ndim == 2
            and not isinstance(module, nn.Embedding)
            and module is not head
            and matrix is not matrix_of(head)
        ):
            found[name] = module
    return found


def input_axes(layers: Iterable[nn.Module]) -> dict[int, int]:
    """The axis of each layer's matrix along which its inputs lie, by the parameter's `id`: 0 for a `Conv1D`, else 1."""
    return {id(matrix_of(layer)): 0 if isinstance(layer, Conv1D) else 1 for layer in layers}
