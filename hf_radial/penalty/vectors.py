"""The vectors of a batch that are not padding: which ones, and how many."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_radial.sites.site import Site

PADDING_MASKS = ("attention_mask", "decoder_attention_mask")
IGNORED_LABEL = -100


def padding_mask(batch: Mapping[str, Any], name: str, labels: Tensor | None = None) -> Tensor | None:
    """A mask that is non-zero for positions that are not padding, or `None` if the batch does not tell.

    Args:
        batch: the arguments of a forward pass.
        name: `"attention_mask"`, or `"decoder_attention_mask"`. Few batches have the latter. Then position `i` of the decoder
            counts if label `i` is not -100, because a decoder's inputs are its labels shifted by one.
        labels: the labels, if `batch` no longer has them. They are ignored if their shape differs from the decoder's inputs.
    """
    mask = batch.get(name)
    # A mask of more dimensions tells which positions attend to which, not which are padding.
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask
    ids = batch.get("input_ids")
    if isinstance(mask, Tensor) and isinstance(ids, Tensor) and mask.shape == ids.shape and mask.ndim > 2:
        return mask.flatten(0, -2)  # multiple choice: the model makes each choice a row
    if name == "decoder_attention_mask":
        labels = labels if batch.get("labels") is None else batch["labels"]
        inputs = batch.get("decoder_input_ids")
        fits = not isinstance(inputs, Tensor) or not isinstance(labels, Tensor) or inputs.shape == labels.shape
        if isinstance(labels, Tensor) and labels.ndim == 2 and fits:
            return labels != IGNORED_LABEL
    return None


def count_vectors(batch: Mapping[str, Any], mask: str | None = "attention_mask", main_input: str = "input_ids") -> Tensor:
    """The number of vectors of a batch that are not padding, as an int64 scalar on the batch's device.

    It is the sum of the mask. Without a mask it is the number of elements of the main input, which is enough because only the
    ratio between micro-batches matters.

    Args:
        batch: names to tensors.
        mask: `Site.mask`.
        main_input: the name of the model's main input.

    Raises:
        TypeError: the batch is not a mapping of names to tensors.
        ValueError: the batch has neither a mask nor the main input.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"the batch is a {type(batch).__name__}; the penalty needs batches that are dicts of tensors")
    if mask is not None and (tokens := padding_mask(batch, mask)) is not None:
        return tokens.bool().sum()
    names = ["decoder_input_ids", "decoder_inputs_embeds"] if mask == "decoder_attention_mask" else []
    for name in (*names, main_input, "input_ids", "inputs_embeds"):
        if isinstance(batch.get(name), Tensor):
            return torch.full((), batch[name].numel(), device=batch[name].device)
    raise ValueError(
        f"the batch has neither {mask or 'a mask'} nor {main_input!r}, only {', '.join(batch)}; cannot count its vectors"
    )


def mask_for(r: Tensor, mask: Tensor | None, site: Site) -> Tensor | None:
    """A batch's padding mask in the layout of a site's vectors, whose radii are `r`: true where a vector counts, or `None`.

    Raises:
        ValueError: the mask does not have one entry per vector.
    """
    if mask is None:
        return None
    if site.sequence_first:
        mask = mask.T
    if r.ndim == 1 and r.numel() == mask.numel():  # (batch * sequence,)
        mask = mask.flatten()
    if mask.shape != r.shape:
        raise ValueError(
            f"sites: {site.name!r} gives one vector for each of {tuple(r.shape)}, but its {site.mask} has shape "
            f"{tuple(mask.shape)}, so its padding cannot be told; leave this site out with sites=['!{site.name}']"
        )
    return mask.bool().to(r.device)  # the model may be on several devices


def innermost(model: nn.Module) -> nn.Module:
    """The module whose forward names the arguments, inside wrappers that pass on any arguments."""
    while any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(model.forward).parameters.values()):
        inner = getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def parameter_names(model: nn.Module) -> list[str]:
    """The argument names of a model's forward."""
    return list(inspect.signature(innermost(model).forward).parameters)
