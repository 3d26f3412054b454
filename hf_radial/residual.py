"""What a model adds to its residual stream, read from a recorded forward (`trace.py`).

A residual add is `out = s + t` where `t` was computed from the stream `s` through at least one operation that mixes channels or
positions (a matrix product, a convolution, attention, ...). `t`, taken apart where it is a sum and followed back through
views and scalings, leads to the modules whose outputs are the increments. Adds inside the computation of another increment of
the same block (a state-space skip, a router's own MLP) are not of the stream, and neither is an add outside every block that
spans whole blocks (U-net style connections). Where a model has no residual add at all it is taken for an MLP, whose sites are
the pre-activations of its hidden layers.

The model's code is not looked at, and no module name means anything here except that a number in it says "one of a list".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from hf_radial.trace import Index, Node, Trace

MIXING = re.compile(
    r"mm|conv|attention|fft|pool|einsum|linear|matmul|scan|grouped|lstm|gru|rnn|upsample|index_add|scatter_add|cumsum|pixel_shuffle|_bag"
)
ADDS = {"add", "add_"}
SCALINGS = {"mul", "mul_", "div", "div_"}
# Through these a tensor stays the same vectors: views, casts, moves of whole vectors, dropout.
SAME_VECTORS = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "alias", "detach", "contiguous", "clone", "copy_"),
    *("_to_copy", "to", "lift_fresh", "native_dropout", "unsqueeze", "squeeze", "expand", "permute", "transpose", "t"),
    *("roll", "slice", "constant_pad_nd", "select", "unbind", "split", "split_with_sizes", "chunk", "index", "gather", "cat"),
    "masked_fill",
}
SUMS_AND_WEIGHTS = SAME_VECTORS | SCALINGS | ADDS | {"sub", "sub_", "rsub", "stack", "repeat", "sum", "mean", "alias_update"}
UPDATES = re.compile(r"^(sub|rsub|lerp|addcmul|addcdiv|where)_?$")
ACTIVATIONS = re.compile(
    r"^(relu6?|gelu|silu|tanh|sigmoid|leaky_relu|_?prelu\w*|r?relu_with_noise|c?elu|selu|mish|softplus|softshrink|hardshrink|"
    r"threshold|hardtanh|hardswish|clamp|clamp_min|abs|sin|cos|exp|erf|pow|square)_?$"
)


@dataclass(frozen=True, eq=False)
class Increment:
    """One term of one residual add.

    Attributes:
        add: the add: `stream` is what was added to, `term` what was added.
        leaf: the increment, before the block scales it: `term`, or a part of it if that is a sum, as a module returned it.
    """

    add: Node
    stream: Node
    term: Node
    leaf: Node


def block_of(scope: Iterable[str]) -> str | None:
    """The innermost element of a list (`"...layers.3"`) among module names, outermost first."""
    for name in reversed(list(scope)):
        if match := re.match(r"(.*\.)?\d+(?=\.|$)", name):
            return match[0]
    return None


def increments(trace: Trace) -> list[Increment]:
    """All increments of the residual stream, in the order of execution."""
    found = [i for add, stream, term in _residual_adds(trace) for i in _terms(add, stream, term)]
    shortcuts = [
        i
        for add, stream, term in _projected_adds(trace, {i.add.number for i in found})
        if not any(o.stream.number < add.number <= o.term.number and depends(o.term, add) for o in found)  # a sum within a term
        for i in _terms(add, stream, term)
    ]
    found = sorted(found + shortcuts, key=lambda i: i.add.number)
    kept: list[Increment] = []
    for one in reversed(found):  # what ran last is outermost
        block = block_of(one.add.scope)
        if block is None:
            spans = any(
                block_of(o.add.scope) and one.stream.number < o.add.number <= one.leaf.number and depends(one.leaf, o.add)
                for o in found
            )
            if not spans:
                kept.append(one)
        elif not any(_within(one, other, block) for other in kept if other.leaf.returned_by):
            kept.append(one)
    # What no module returns is still accounted for if all that it brings are increments that were found within it.
    own = [i for i in kept if i.leaf.returned_by]
    return [i for i in kept[::-1] if i.leaf.returned_by or not any(_brings(i, o) for o in own)]


def pre_activations(trace: Trace) -> list[tuple[Node, tuple[str, Index], bool]]:
    """Hidden layers of an MLP: what goes into each elementwise activation from which more is computed.

    Returns:
        `(node, (module, place in its output), False)` where a module returns it, `(node, (activation module, None), True)`
        where none does, and `(node, ("", None), False)` where the activation is no module either.
    """
    feeding: set[int] = set()  # what a later mixing operation is computed from
    for node in reversed(trace.nodes):
        if node.number in feeding or MIXING.search(node.op):
            feeding.update(p.number for p in node.parents)
    found: dict[tuple[str, Index, bool], Node] = {}  # a module that is called again, or feeds two activations, is one site
    for node in trace.nodes:
        squared = node.op == "mul" and len(node.parents) == 2 and node.parents[0] is node.parents[1]
        if (squared or ACTIVATIONS.match(node.op)) and node.number in feeding and not node.constant:
            leaf = _strip(node.parents[0], to_module=True)
            if leaf.returned_by:
                found.setdefault((*leaf.returned_by[0], False), leaf)
            elif node.returned_by:
                found.setdefault((node.returned_by[0][0], None, True), node.parents[0])
            elif MIXING.search(leaf.op):
                found.setdefault(("", None, False), leaf)
    return [(node, (name, index), at_input) for (name, index, at_input), node in found.items()]


def has_attention(trace: Trace) -> bool:
    """Whether anything attends, so that the model is no MLP."""
    return any(re.search("attention|^_(safe_)?softmax", node.op) for node in trace.nodes)


def before(leaf: Node) -> list[Node]:
    """Module outputs further back behind a module that only drops or hands on its input; several if it was put together."""
    base = _strip(leaf, to_module=True, past=True)
    if base.op in ("alias_update", "index_put_"):  # written piece by piece into one tensor
        return [found for p in base.parents if not p.constant for found in ([p] if p.returned_by else before(p))]
    return [base] if base.returned_by and base is not leaf else []


def adds_in(trace: Trace, block: str, shape: tuple[int, ...]) -> bool:
    """Whether something is added to, or subtracted from, something else of this shape while the block runs."""
    for n in trace.nodes:
        of_two = sum(not p.constant for p in n.parents) > 1
        if of_two and n.shape == shape and block in n.scope and re.match(r"add|sub|rsub|baddbmm|lerp", n.op):
            return True
    return False


def stray_update(out: Node, entered: Node, found: Iterable[Increment]) -> Node | None:
    """What changes the stream within a block and is no increment that was found: a `lerp`, a difference.

    Followed are adds of increments, norms and what keeps the vectors; at anything else that mixes no streams it gives up.
    """
    terms = {i.add.number: {j.term.number for j in found if j.add is i.add} for i in found}
    node = out
    while node.number > entered.number:
        node = _strip(node, to_module=False)
        alike = [p for p in node.parents if p.shape == node.shape and not p.constant]
        if node.op in ("sum", "mean") and node.parents[0].op == "stack":  # a sum by another name
            return node if all(depends(p, entered) or p is entered for p in node.parents[0].parents) else None
        if node.number <= entered.number or not alike:
            return None
        if node.number in terms:
            onward = [p for p in alike if p.number not in terms[node.number]]
        elif len(alike) > 1 and UPDATES.match(node.op):
            return node if all(depends(p, entered) or p is entered for p in alike) else None
        elif len(alike) == 1 and not MIXING.search(node.op):
            onward = alike
        else:
            return None
        if len(onward) != 1:
            return None
        node = onward[0]
    return None


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


def parameters_between(leaf: Node, stream: Node) -> int:
    """How many numbers the parameters hold from which `leaf` was computed out of `stream`."""
    seen, todo, parameters = set(), [leaf], {}
    while todo:
        n = todo.pop()
        if n.op == "parameter":
            parameters[n.number] = prod(n.shape)
        if n is not stream and n.number not in seen and (n.number > stream.number or n.constant):
            seen.add(n.number)
            todo.extend(n.parents)
    return sum(parameters.values())


def channel_axes(found: Iterable[Increment]) -> dict[Increment, int]:
    """The axis of each increment's channels, in the module's output.

    Of what computed it, `channel_axis` tells. But a sublayer that mixes positions (an MLP-Mixer's) computes along another axis,
    and turns the result round: the increments of the same block that are added as they come say what the stream's channels are.

    Raises:
        ValueError: these do not agree.
    """
    found = [i for i in found if i.leaf.returned_by]
    axes = {i: channel_axis(i.leaf) for i in found}
    moves = {i: _moves(i) for i in found}
    streams: dict[tuple[str | None, tuple[int, ...]], set[int]] = {}  # block and shape -> axes of what is added as it comes
    for i in found:
        if moves[i] == [] and len(i.leaf.shape) == len(i.add.shape):
            streams.setdefault((block_of(i.add.scope), i.add.shape), set()).add(axes[i] % len(i.add.shape))
    for one in found:
        straight = streams.get((block_of(one.add.scope), one.add.shape), set())
        if len(straight) > 1:
            raise ValueError(
                f"what block {block_of(one.add.scope)!r} adds to its stream seems to have its channels on several axes "
                f"({', '.join(map(str, sorted(straight)))}); name its modules with sites=['PATTERN@AXIS', ...]"
            )
        if (turned := moves[one]) and straight:
            (axis,) = straight
            for permutation in turned:
                axis = permutation[axis % len(permutation)]
                axis = -1 if axis == len(permutation) - 1 else axis
            axes[one] = -1 if axis == len(one.leaf.shape) - 1 else axis
    return axes


def _moves(increment: Increment) -> list[tuple[int, ...]] | None:
    """The permutations between a term and the module's output that it comes from, last first; `None` if it is a sum."""
    node, moves = increment.term, []
    while node is not increment.leaf:
        following = _step(node)
        if following is None or following.number < increment.leaf.number:
            return None
        if node.axes is not None:
            moves.append(node.axes)
        node = following
    return moves


def channel_axis(node: Node) -> int:
    """The axis of a tensor's channels: 1 behind a convolution, a pooling or a batch norm, the last behind anything else."""
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
            axis = -1  # and so it stays through views, whatever becomes of the other axes
    return -1 if axis == len(node.shape) - 1 else axis


# Reading the graph --------------------------------------------------------------------------------------------------------


def _is_sum(node: Node) -> bool:
    """A sum of two tensors of one shape."""
    return (
        node.op in ADDS and len(node.parents) == 2 and len(node.shape) > 1 and all(p.shape == node.shape for p in node.parents)
    )


def _residual_adds(trace: Trace) -> Iterator[tuple[Node, Node, Node]]:
    """`(out, stream, term)` of every residual add."""
    for node in trace.nodes:
        if _is_sum(node):
            for stream, term in (node.parents, node.parents[::-1]):
                if hit := next((s for s in _streams(stream) if depends(term, s, mixing=True)), None):
                    yield node, hit, term
                    break


def _projected_adds(trace: Trace, known: set[int]) -> Iterator[tuple[Node, Node, Node]]:
    """`(out, block's input, term)` where one operand is the block's input through a projection shortcut: the shorter way."""
    for add in trace.nodes:
        if add.number in known or not _is_sum(add):
            continue
        block = block_of(add.scope)
        inputs = [
            c.entered for c in trace.calls if c.module == block and c.entered is not None and c.entered.number < add.number
        ]
        if inputs and all(depends(p, inputs[-1]) for p in add.parents):
            (least, _), (most, term) = sorted(((_mixed_since(p, inputs[-1]), p) for p in add.parents), key=lambda pair: pair[0])
            if least < most:
                yield add, inputs[-1], term


def _mixed_since(node: Node, start: Node) -> int:
    """How many mixing operations there are between the two."""
    seen: set[int] = set()
    todo, mixing = [node], 0
    while todo:
        n = todo.pop()
        if n.number > start.number and n.number not in seen:
            seen.add(n.number)
            mixing += MIXING.search(n.op) is not None and not n.constant
            todo.extend(n.parents)
    return mixing


def _streams(operand: Node, most: int = 12) -> list[Node]:
    """What the stream may be that an operand of an add holds: through adds and operations that keep the vectors."""
    found: list[Node] = []
    todo = [operand]
    while todo and len(found) < most:
        node = todo.pop(0)
        base = _strip(node, to_module=False)
        found += [node] if base is node else [node, base]
        if _is_sum(base):
            todo.extend(base.parents)
        elif base.op in ("bmm", "matmul", "mm") and len(base.parents) == 2 and not any(p.constant for p in base.parents):
            small, large = sorted(
                base.parents, key=lambda p: prod(p.shape)
            )  # streams mixed by a small matrix (hyper-connections)
            if prod(small.shape) < prod(large.shape) == prod(base.shape):
                todo.append(large)
    return found


def _terms(add: Node, stream: Node, term: Node, part: Node | None = None, depth: int = 4) -> list[Increment]:
    """A term of a residual add, or a part of it, as increments: it may be a sum of several."""
    part = term if part is None else part
    if stream in _streams(part):  # the streams themselves, mixed
        return []
    leaf = _strip(part, to_module=True)
    if not leaf.returned_by:
        if depth and _is_sum(leaf):
            return [i for p in leaf.parents for i in _terms(add, stream, term, p, depth - 1)]
        if gated := _gated(leaf):
            return [Increment(add, stream, term, gated)]
    return [] if leaf.constant else [Increment(add, stream, term, leaf)]


def _gated(node: Node) -> Node | None:
    """The module output in `gate * output`, where the gate has one number for many channels."""
    if node.op in SCALINGS and len(node.parents) == 2:
        for vectors, gate in (node.parents, node.parents[::-1]):
            if vectors.shape and vectors.shape[-1] == node.shape[-1] and prod(gate.shape) < prod(node.shape):
                base = _strip(vectors, to_module=True)
                if base.returned_by:
                    return base
    return None


def _strip(node: Node, to_module: bool, past: bool = False) -> Node:
    """Back through what keeps the vectors, up to a number, a parameter per channel or a bias.

    It stops at a module's output if `to_module`, but with `past` not at the first.
    """
    start = node
    while not (to_module and node.returned_by and not (past and node is start)):
        following = _step(node)
        if following is None:
            break
        node = following
    return node


def _step(node: Node) -> Node | None:
    """What a tensor was made from, if by something that keeps the vectors."""
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


def _brings(one: Increment, other: Increment) -> bool:
    """`one` hands on what `other` added to the stream in the same block: several streams are mixed."""
    same_block = block_of(one.add.scope) == block_of(other.add.scope)
    return same_block and one.leaf is not other.leaf and _hands_on(one.leaf, other.add)


def _hands_on(node: Node, stream: Node) -> bool:
    """Whether `node` is put together from streams, `stream` among them: nothing is computed from it but sums and weights."""
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


def _within(one: Increment, other: Increment, block: str) -> bool:
    """`one` was added on the way from the stream to `other`, in the same block or in a part of its block."""
    add, outer = one.add, block_of(other.add.scope)
    if outer is None or other.add is add or not f"{block}.".startswith(f"{outer}."):
        return False
    if not other.stream.number < add.number <= other.leaf.number:
        return False
    if add.shape != other.add.shape and not one.leaf.returned_by:  # a recurrence, say, whose last state nothing uses
        return True
    is_block_output = add.shape[-1:] == other.add.shape[-1:] and any(name == block for name, _ in add.returned_by)
    return not is_block_output and depends(other.leaf, add)
