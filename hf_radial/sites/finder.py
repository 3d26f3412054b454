"""From the increments of the residual stream (`residual.py`) to the modules to hook, and a check that none is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from hf_radial.sites.graph import channel_axis, parameters_between
from hf_radial.sites.residual import (
    Increment,
    adds_in,
    before,
    block_of,
    channel_axes,
    has_attention,
    increments,
    pre_activations,
    stray_update,
)
from hf_radial.sites.site import Site
from hf_radial.sites.trace import Call, Index, Node, trace

DECODER_INPUTS = frozenset({"decoder_input_ids", "decoder_inputs_embeds", "labels"})
NOT_TOKENS = re.compile("pixel|image|video|patch")
HOW_TO_NAME = "name the modules with sites=['*.o_proj', ...], or leave a part of the model out with sites=['!*.part.*']"


class Finder:
    """Finds the sites of a model in one recorded forward.

    Args:
        model: any module.
        inputs: the arguments of the forward.
        root: the part of the model whose forward it is. Default: the model.

    Raises:
        Whatever the forward raises.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any], root: nn.Module | None = None) -> None:
        root = model if root is None else root
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        first = inputs.get("input_ids", inputs.get("inputs_embeds"))
        if isinstance(first, Tensor) and first.ndim > 1 and first.shape[0] == first.shape[1] > 1:  # which axis is which?
            inputs = {k: v[:-1] if isinstance(v, Tensor) and v.shape[:1] == first.shape[:1] else v for k, v in inputs.items()}
        if "use_cache" in signature(root.forward).parameters:
            inputs.setdefault("use_cache", False)  # as in training
        self.model, self.trace = model, trace(model, inputs, root)
        self.modules = dict(model.named_modules())
        shapes = {k: tuple(v.shape[:2]) for k, v in inputs.items() if isinstance(v, Tensor) and v.ndim > 1}
        self.tokens = {
            "decoder_attention_mask": next((shapes[k] for k in DECODER_INPUTS if k in shapes), None),
            "attention_mask": shapes.get("input_ids") or shapes.get("inputs_embeds"),
        }
        self.encoder_decoder = bool(getattr(getattr(root, "config", None), "is_encoder_decoder", False))
        self.dropout_in_place = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.inplace for m in model.modules())

    def find(self, where: str, excluded: set[str]) -> list[Site]:
        all_increments = increments(self.trace)
        chosen = [(i, *place) for i in all_increments for place in self.places(i, all_increments)]
        if not all_increments:
            self.check_complete([], [], excluded)  # an MLP has no block that adds something to its input
            hidden = [] if has_attention(self.trace) else pre_activations(self.trace)
            for node, (name, _), _ in hidden:
                if not name:
                    raise ValueError(
                        f"no module returns what goes into one of the activations of {type(self.model).__name__} (the result "
                        f"of {node.op!r}), so its penalty would be partial: {HOW_TO_NAME}"
                    )
            return [self.describe(name, index, node, None, at_input) for node, (name, index), at_input in hidden]
        if any(block_of(i.add.scope) for i in all_increments):  # then an add outside the blocks belongs to a stem or a head
            chosen = [c for c in chosen if block_of(c[0].add.scope) or block_of([c[2]])]
        sites: dict[tuple[str, Index, bool], Site] = {}
        axes = channel_axes(all_increments)
        for increment, leaf, name, index, at_input in chosen:
            if where == "pre_norm" and self.is_norm(name):
                index, at_input = None, True
                leaf = next(c.entered for c in self.trace.calls if c.module == name and c.entered is not None)
            key = (name, index, at_input)
            if key not in sites:
                axis = axes[increment] if leaf is increment.leaf else channel_axis(leaf)
                sites[key] = self.describe(name, index, leaf, increment.stream, at_input, axis)
        names = [site.name for site in sites.values()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"{name!r} returns several increments, which would share one name in targets and logs: {HOW_TO_NAME}"
                )
        self.check_complete([s.name for s in sites.values()], all_increments, excluded)
        return list(sites.values())

    def places(self, increment: Increment, among: list[Increment]) -> list[tuple[Node, str, Index, bool]]:
        """The modules to hook for an increment: `(node, module, place in its output, at its input)`."""
        leaf = increment.leaf
        names = [r for r in leaf.returned_by if r[0] not in increment.add.scope] or leaf.returned_by
        for name, index in names:
            if not self.drops(name):
                return [(leaf, name, index, False)]
        if not names:
            return []
        # Only a dropout, or a module in its place, returns it: take its input, unless other places share the dropout.
        dropout = names[0][0]
        served = {id(i.leaf) for i in among if any(n == dropout for n, _ in i.leaf.returned_by)}
        block = block_of([dropout])
        calls = sum(c.module == block for c in self.trace.calls) or 1
        if len(served) > calls and (deeper := before(leaf)):
            return [(n, *n.returned_by[0], False) for n in deeper]
        return [(leaf, dropout, None, True)]

    def drops(self, name: str) -> bool:
        return re.search("Dropout|DropPath|StochasticDepth|Identity", type(self.modules[name]).__name__) is not None

    def is_norm(self, name: str) -> bool:
        """A module without parts that divides by a root: a layer norm, an RMS norm."""
        if any(True for _ in self.modules[name].children()):
            return False
        return any(name in n.scope and re.search("norm|sqrt", n.op) for n in self.trace.nodes)

    def describe(
        self, name: str, index: Index, node: Node, stream: Node | None, at_input: bool = False, axis: int | None = None
    ) -> Site:
        axis = channel_axis(node) if axis is None else axis
        module, width = self.modules[name], node.shape[axis]
        leading = tuple(s for i, s in enumerate(node.shape) if i != axis % len(node.shape))
        own = sum(p.numel() for p in module.parameters())
        decoder = self.encoder_decoder and bool(node.inputs & DECODER_INPUTS)
        mask: str | None = "decoder_attention_mask" if decoder else "attention_mask"
        if node.inputs and all(NOT_TOKENS.search(name) for name in node.inputs):
            mask = None
        tokens = self.tokens[mask] if mask else None
        # Calls that return something else: a dropout that attention weights go through, too.
        returned = [n for c in self.trace.calls if c.module == name for n in c.returned]
        others = any(len(n.shape) != len(node.shape) or n.shape[axis] != width for n in returned) and index is None
        return Site(
            name,
            width,
            type(module).__name__,
            own if stream is None else parameters_between(node, stream),
            index,
            at_input,
            axis,
            mask,
            sequence_first=tokens is not None and leading == tokens[::-1] != tokens,
            rank=len(node.shape) if others else None,
            in_place=node.overwritten or self.dropout_in_place,
        )

    def check_complete(self, names: list[str], found: list[Increment], excluded: set[str]) -> None:
        """Raise a ValueError if a repeated block has no site, or adds something to the stream that no module returns."""
        adding = [block for i in found if (block := block_of(i.add.scope))]  # blocks that add to the stream themselves
        for increment in found:
            # Outside of all blocks it is a stem or a head, unless there is no block.
            block = block_of(increment.add.scope) or (None if adding else increment.add.scope[-1])
            if block is not None and not increment.leaf.returned_by and not inside(block, excluded):
                raise ValueError(
                    f"block {block!r} ({type(self.modules[block]).__name__}) adds to its stream what no module returns (the "
                    f"result of {increment.leaf.op!r}, in {increment.add.scope[-1]!r}), so its penalty would be partial: "
                    f"{HOW_TO_NAME}"
                )
        blocks = [c for c in self.trace.calls if block_of([c.module]) == c.module and not inside(c.module, excluded)]
        blocks = [c for c in blocks if self.is_residual(c)]
        for call in blocks:
            assert call.entered is not None
            out = next(n for n in call.returned if n.shape == call.entered.shape)
            if stray := stray_update(out, call.entered, found):
                raise ValueError(
                    f"block {call.module!r} ({type(self.modules[call.module]).__name__}) changes its stream by "
                    f"{stray.op!r} in {stray.scope[-1]!r}, which is no sum, so its penalty would be partial: {HOW_TO_NAME}"
                )
        for block in dict.fromkeys(c.module for c in blocks):
            has_site = any(inside(name, [block]) for name in names)
            part_of_one = inside(block.rpartition(".")[0], adding)
            if not has_site and not part_of_one:
                raise ValueError(
                    f"no site found in block {block!r} ({type(self.modules[block]).__name__}), which seems to add to a stream: "
                    f"a penalty elsewhere alone would be silently partial; {HOW_TO_NAME}"
                )

    def is_residual(self, call: Call) -> bool:
        """Whether a module looks like a residual block: it has parts and matrices, adds, and keeps the shape of its input."""
        module = self.modules[call.module]
        return (
            call.entered is not None
            and any(n.shape == call.entered.shape for n in call.returned)
            and any(True for _ in module.children())
            and any(p.ndim > 1 for p in module.parameters())
            and adds_in(self.trace, call.module, call.entered.shape)
        )


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether a module is one of these, or a part of one."""
    return any(name == module or name.startswith(module + ".") for module in modules)
