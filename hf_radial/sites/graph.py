"""Walks a recorded forward (`trace.py`): from which tensors a tensor was computed, by which operations, on which axis."""

from __future__ import annotations

import re
from math import prod

from hf_radial.sites.trace import Node

MIXING = re.compile(
    r"mm|mv|[48]bit|conv|attention|fft|pool|einsum|linear|matmul|scan|grouped|lstm|gru|rnn|upsample|index_add|scatter_add|cumsum"
    r"|pixel_shuffle|_bag"
)
ADDS = {"add", "add_"}
SCALINGS = {"mul", "mul_", "div", "div_"}
# Operations that keep the vectors of a tensor: views, casts, moves of whole vectors, dropout.
SAME_VECTORS = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "alias", "detach", "contiguous", "clone", "copy_"),
    *("_to_copy", "to", "lift_fresh", "native_dropout", "unsqueeze", "squeeze", "expand", "permute", "transpose", "t"),
    *("roll", "slice", "constant_pad_nd", "select", "unbind", "split", "split_with_sizes", "chunk", "index", "gather", "cat"),
    "masked_fill",
}
SUMS_AND_WEIGHTS = SAME_VECTORS | SCALINGS | ADDS | {"sub", "sub_", "rsub", "stack", "repeat", "sum", "mean", "alias_update"}


def is_sum(node: Node) -> bool:
    """A sum of two tensors of one shape."""
    return (
        node.op in ADDS and len(node.parents) == 2 and len(node.shape) > 1 and all(p.shape == node.shape for p in node.parents)
    )


def step(node: Node) -> Node | None:
    """The tensor that it was computed from, if the operation keeps the vectors."""
    if not node.parents:
        return None
    by_number = len(node.parents) == 1 and node.op in SCALINGS | ADDS  # Python's `sum` begins with 0
    if by_number or (node.op in SAME_VECTORS and node.op != "copy_"):
        return node.parents[0]
    if node.op == "copy_":  # into, from
        return node.parents[-1]
    if node.op in SCALINGS | ADDS and len(node.parents) == 2 and node.parents[0].constant != node.parents[1].constant:
        return node.parents[node.parents[0].constant]
    return None


def strip(node: Node, to_module: bool, past: bool = False) -> Node:
    """Go back through operations that keep the vectors, up to a factor, a parameter per channel or a bias.

    With `to_module` it stops at a module's output; with `past` it goes past the first.
    """
    start = node
    while not (to_module and node.returned_by and not (past and node is start)):
        following = step(node)
        if following is None:
            break
        node = following
    return node


def depends(node: Node, on: Node, mixing: bool = False) -> bool:
    """Whether `node` was computed from `on`; with `mixing`, through at least one mixing operation."""
    seen, todo = set(), [(node, False)]
    while todo:
        n, mixed = todo.pop()
        if n is on:
            if mixed or not mixing:
                return True
            continue
        mixed = mixed or MIXING.search(n.op) is not None
        if n.number > on.number and (n.number, mixed) not in seen:
            seen.add((n.number, mixed))
            todo.extend((p, mixed) for p in n.parents)
    return False


def hands_on(node: Node, stream: Node) -> bool:
    """Whether `node` is a weighted sum of streams that include `stream`."""
    seen, todo = set(), [node]
    while todo:
        n = todo.pop()
        if n is stream:
            return True
        weighed = n.op in ("bmm", "matmul", "mm") and not any(p.constant for p in n.parents)
        if n.number not in seen and n.number > stream.number and (weighed or n.op in SUMS_AND_WEIGHTS):
            seen.add(n.number)
            todo.extend(n.parents)
    return False


def mixed_since(node: Node, start: Node) -> int:
    """The number of mixing operations between the two."""
    seen: set[int] = set()
    todo, mixing = [node], 0
    while todo:
        n = todo.pop()
        if n.number > start.number and n.number not in seen:
            seen.add(n.number)
            mixing += MIXING.search(n.op) is not None and not n.constant
            todo.extend(n.parents)
    return mixing


def parameters_between(leaf: Node, stream: Node) -> int:
    """The number of parameters that were used to compute `leaf` from `stream`."""
    seen, todo, parameters = set(), [leaf], {}
    while todo:
        n = todo.pop()
        if n.op == "parameter":
            parameters[n.number] = prod(n.shape)
        if n is not stream and n.number not in seen and (n.number > stream.number or n.constant):
            seen.add(n.number)
            todo.extend(n.parents)
    return sum(parameters.values())


def channel_axis(node: Node) -> int:
    """The axis of a tensor's channels: 1 after a convolution, a pooling or a batch norm, otherwise the last."""
    moves: list[tuple[int, ...]] = []
    n, axis = node, -1
    while n.parents:
        if re.search(r"conv|batch_norm|group_norm|pool|upsample|pixel_shuffle", n.op):
            axis = 1 if len(n.shape) > 2 else -1  # tokens in a row, channels last
            break
        if MIXING.search(n.op) or "norm" in n.op or any(p.shape == (*n.shape[:-1], 1) != n.shape for p in n.parents):
            break  # the last: a number for each vector comes from a norm
        if n.axes is not None:
            moves.append(n.axes)
        n = (
            n.parents[1]
            if n.op == "copy_" and len(n.parents) > 1
            else max(n.parents, key=lambda p: (not p.constant, prod(p.shape)))
        )
    for axes in reversed(moves):
        axis = axes.index(axis % len(axes))
        if axis == len(axes) - 1:
            axis = -1  # views keep it last, whatever they do to the other axes
    return -1 if axis == len(node.shape) - 1 else axis
