"""One site: a module of a model, where in it the penalised vectors are, and which mask tells their padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hf_radial.sites.residual import block_of
from hf_radial.sites.trace import Index


@dataclass(frozen=True)
class Site:
    """One penalised module.

    Attributes:
        name: its name in `model.named_modules()`.
        width: `d`, the number of channels of its vectors; `None` until the first forward if it was named without a trace.
        kind: the module's class name.
        parameters: number of parameters that the sublayer computes its vectors with; the module's, if it was named without a
            trace.
        index: where in the module's output the vectors are: `None` (it is a tensor), a position or a key.
        at_input: the vectors are the module's first argument (the input of a dropout or a norm).
        dim: the channel axis.
        mask: the batch's mask for its padding: `"attention_mask"`, `"decoder_attention_mask"`, or `None` if its vectors are no
            tokens (image patches).
        sequence_first: its vectors have the layout `(sequence, batch)`.
        rank: number of axes of its output. Calls with another rank or width serve something else (a shared dropout) and do not
            count. `None`: all calls count.
        in_place: the model overwrites the output later in its forward, so a copy must be measured.
    """

    name: str
    width: int | None
    kind: str
    parameters: int
    index: Index = None
    at_input: bool = False
    dim: int = -1
    mask: str | None = "attention_mask"
    sequence_first: bool = False
    rank: int | None = None
    in_place: bool = False

    @property
    def layer(self) -> str:
        """The repeated block that it is in, such as `"model.layers.3"`; empty outside any."""
        return block_of([self.name.rpartition(".")[0]]) or ""

    @property
    def sublayer(self) -> str:
        """Its name within the layer."""
        return self.name[len(self.layer) :].lstrip(".")


def site_vectors(site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor | None:
    """The site's vectors in one call of its module, with channels on axis `site.dim`; `None` if this call serves something
    else.

    Raises:
        TypeError: that place holds no floating point tensor.
    """
    h = output
    if site.at_input:
        h = args[0] if args else next(iter(kwargs.values()), None)
    elif site.index is not None:
        try:
            h = output[site.index]
        except (IndexError, KeyError, TypeError):
            raise TypeError(f"sites: the output of {site.name!r}, a {type(output).__name__}, has no {site.index!r}") from None
    if not isinstance(h, Tensor) or not h.is_floating_point():
        what = f"a tensor of dtype {h.dtype}" if isinstance(h, Tensor) else f"a {type(h).__name__}"
        hint = "; say which of them with '#0', '#1', ..." if isinstance(h, (tuple, list, Mapping)) else ""
        raise TypeError(f"sites: the output of {site.name!r} is {what}; the penalty needs a floating point tensor{hint}")
    if site.rank is not None and (h.ndim != site.rank or h.shape[site.dim] != site.width):
        return None
    return h
