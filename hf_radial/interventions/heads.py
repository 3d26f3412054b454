"""Which layer of a model gives its logits, and which weights lie before it."""

from __future__ import annotations

from typing import Any

from torch import nn

NAMES = ("lm_head", "classifier", "score")


def head_of(model: Any) -> nn.Module:
    """The layer whose output are the logits.

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


def hidden_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with a matrix for a weight that are neither embedding nor head (linear ones, and GPT-2's `Conv1D`)."""
    head = head_of(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
        and module.weight.ndim == 2
        and not isinstance(module, nn.Embedding)
        and module is not head
        and module.weight is not getattr(head, "weight", None)
    }
