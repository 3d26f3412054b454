"""Finds what a model adds to its residual stream in a recorded forward (`trace.py`).

A residual add is `out = s + t` where `t` was computed from the stream `s` through at least one operation that mixes channels or
positions (a matrix product, a convolution, attention, ...). If `t` is a sum, it is split into its terms. Each term is followed
back through views and scalings to the module whose output is the increment. Two kinds of adds do not belong to the stream: adds
inside the computation of another increment of the same block (a state-space skip, a router's own MLP), and adds outside every
block that span whole blocks (U-net style connections). A model without any residual add is taken for an MLP. Its sites are the
pre-activations of its hidden layers.

It does not read the model's code. Module names mean nothing here, except that a number in a name says "one of a list".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from hf_radial.sites.graph import MIXING, SCALINGS, channel_axis, depends, hands_on, is_sum, mixed_since, step, strip
from hf_radial.sites.trace import Index, Node, Trace

UPDATES = re.compile(r"^(sub|rsub|lerp|addcmul|addcdiv|where)_?$")
ACTIVATIONS = re.compile(
    r"^(relu6?|gelu|silu|tanh|sigmoid|leaky_relu|_?prelu\w*|r?relu_with_noise|c?elu|selu|mish|softplus|softshrink|hardshrink|"
    r"threshold|hardtanh|hardswish|clamp|clamp_min|abs|sin|cos|exp|erf|pow|square)_?$"
)


@dataclass(frozen=True, eq=False)
class Increment:
    """One term of one residual add.

    Attributes:
        add: the add of `term` to `stream`.
        leaf: the increment as a module returned it, before the block scales it: `term`, or one part if that is a sum.
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
    for add, entered, term in _projected_adds(trace, {i.add.number for i in found}):
        if not _is_part_of_a_term(add, found):
            found += _terms(add, entered, term)
    found.sort(key=lambda i: i.add.number)
    kept: list[Increment] = []
    for one in reversed(found):  # what ran last is outermost
        block = block_of(one.add.scope)
        inner = _spans_blocks(one, found) if block is None else any(_within(one, o, block) for o in kept if o.leaf.returned_by)
        if not inner:
            kept.append(one)
    own = [i for i in kept if i.leaf.returned_by]
    return [i for i in reversed(kept) if i.leaf.returned_by or not any(_brings(i, o) for o in own)]


def pre_activations(trace: Trace) -> list[tuple[Node, tuple[str, Index], bool]]:
    """Hidden layers of an MLP: the input of each elementwise activation that something else is computed from.

    Returns:
        `(node, (module, place in its output), False)` if a module returns it, `(node, (activation module, None), True)` if
        none does, and `(node, ("", None), False)` if the activation is no module either.
    """
    feeding: set[int] = set()  # inputs of a later mixing operation
    for node in reversed(trace.nodes):
        if node.number in feeding or MIXING.search(node.op):
            feeding.update(p.number for p in node.parents)
    found: dict[tuple[str, Index, bool], Node] = {}  # a module that is called again, or feeds two activations, is one site
    for node in trace.nodes:
        squared = node.op == "mul" and len(node.parents) == 2 and node.parents[0] is node.parents[1]
        if (squared or ACTIVATIONS.match(node.op)) and node.number in feeding and not node.constant:
            leaf = strip(node.parents[0], to_module=True)
            if leaf.returned_by:
                found.setdefault((*leaf.returned_by[0], False), leaf)
            elif node.returned_by:
                found.setdefault((node.returned_by[0][0], None, True), node.parents[0])
            elif MIXING.search(leaf.op):
                found.setdefault(("", None, False), leaf)
    return [(node, (name, index), at_input) for (name, index, at_input), node in found.items()]


def has_attention(trace: Trace) -> bool:
    """Whether the model uses attention, so that it is no MLP."""
    return any(re.search("attention|attn|^_(safe_)?softmax", node.op) for node in trace.nodes)


def before(leaf: Node) -> list[Node]:
    """The module outputs that a module only drops out or passes on; several if they are concatenated."""
    base = strip(leaf, to_module=True, past=True)
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
    """Changes of the stream within a block that are none of the increments that were found: a `lerp`, a difference.

    It goes back from the block's output through adds of increments, norms and operations that keep the vectors. It stops at any
    other operation.
    """
    terms = {i.add.number: {j.term.number for j in found if j.add is i.add} for i in found}
    node = out
    while node.number > entered.number:
        node = strip(node, to_module=False)
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


def channel_axes(found: Iterable[Increment]) -> dict[Increment, int]:
    """The axis of each increment's channels, in the module's output.

    `channel_axis` tells the axis from the operation that computed it. But a sublayer that mixes positions (an MLP-Mixer's)
    computes along another axis and transposes the result. Then the increments of the same block that are added without a
    transpose tell which axis holds the stream's channels.

    Raises:
        ValueError: these increments disagree.
    """
    found = [i for i in found if i.leaf.returned_by]
    axes = {i: channel_axis(i.leaf) for i in found}
    moves = {i: _moves(i) for i in found}
    # Block and shape -> axes of the increments that are added without a transpose.
    streams: dict[tuple[str | None, tuple[int, ...]], set[int]] = {}
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
        following = step(node)
        if following is None or following.number < increment.leaf.number:
            return None
        if node.axes is not None:
            moves.append(node.axes)
        node = following
    return moves


# Reading the graph --------------------------------------------------------------------------------------------------------


def _residual_adds(trace: Trace) -> Iterator[tuple[Node, Node, Node]]:
    """`(out, stream, term)` of every residual add."""
    for node in trace.nodes:
        if is_sum(node):
            for stream, term in (node.parents, node.parents[::-1]):
                if hit := next((s for s in _streams(stream) if depends(term, s, mixing=True)), None):
                    yield node, hit, term
                    break


def _projected_adds(trace: Trace, known: set[int]) -> Iterator[tuple[Node, Node, Node]]:
    """`(out, block's input, term)` where one operand is the block's input through a projection shortcut: the shorter way."""
    for add in trace.nodes:
        if add.number in known or not is_sum(add):
            continue
        block = block_of(add.scope)
        inputs = [
            c.entered for c in trace.calls if c.module == block and c.entered is not None and c.entered.number < add.number
        ]
        if inputs and all(depends(p, inputs[-1]) for p in add.parents):
            (least, _), (most, term) = sorted(((mixed_since(p, inputs[-1]), p) for p in add.parents), key=lambda pair: pair[0])
            if least < most:
                yield add, inputs[-1], term


def _streams(operand: Node, most: int = 12) -> list[Node]:
    """The candidates for the stream in an operand of an add, through adds and operations that keep the vectors."""
    found: list[Node] = []
    todo = [operand]
    while todo and len(found) < most:
        node = todo.pop(0)
        base = strip(node, to_module=False)
        found += [node] if base is node else [node, base]
        if is_sum(base):
            todo.extend(base.parents)
        elif base.op in ("bmm", "matmul", "mm") and len(base.parents) == 2 and not any(p.constant for p in base.parents):
            # Streams mixed by a small matrix (hyper-connections).
            small, large = sorted(base.parents, key=lambda p: prod(p.shape))
            if prod(small.shape) < prod(large.shape) == prod(base.shape):
                todo.append(large)
    return found


def _terms(add: Node, stream: Node, term: Node, part: Node | None = None, depth: int = 4) -> list[Increment]:
    """A term of a residual add, or a part of it, as increments: it may be a sum of several."""
    part = term if part is None else part
    if stream in _streams(part):  # the streams themselves, mixed
        return []
    leaf = strip(part, to_module=True)
    if not leaf.returned_by:
        if depth and is_sum(leaf):
            return [i for p in leaf.parents for i in _terms(add, stream, term, p, depth - 1)]
        if gated := _gated(leaf):
            return [Increment(add, stream, term, gated)]
    return [] if leaf.constant else [Increment(add, stream, term, leaf)]


def _gated(node: Node) -> Node | None:
    """The module output in `gate * output`, where the gate has one number for many channels."""
    if node.op in SCALINGS and len(node.parents) == 2:
        for vectors, gate in (node.parents, node.parents[::-1]):
            if vectors.shape and vectors.shape[-1] == node.shape[-1] and prod(gate.shape) < prod(node.shape):
                base = strip(vectors, to_module=True)
                if base.returned_by:
                    return base
    return None


# Which adds belong to the stream. Each rule names a model that needs it.


def _is_part_of_a_term(add: Node, found: Iterable[Increment]) -> bool:
    """A sum between the stream and its increment that is no shortcut: experts plus a shared expert (GraniteMoeShared)."""
    return any(o.stream.number < add.number <= o.term.number and depends(o.term, add) for o in found)


def _spans_blocks(one: Increment, found: Iterable[Increment]) -> bool:
    """An add outside every block whose term went through whole blocks: a U-net's connection."""
    return any(
        block_of(o.add.scope) and one.stream.number < o.add.number <= one.leaf.number and depends(one.leaf, o.add)
        for o in found
    )


def _brings(one: Increment, other: Increment) -> bool:
    """An add that no module returns and that passes on what `other` added in the same block: mixed streams (Gemma 3n)."""
    same_block = block_of(one.add.scope) == block_of(other.add.scope)
    return same_block and one.leaf is not other.leaf and hands_on(one.leaf, other.add)


def _within(one: Increment, other: Increment, block: str) -> bool:
    """`one` was added on the way from the stream to `other`, in the same block or in a part of it.

    A state-space model's skip (Mamba), the inner stream of a bottleneck (MobileBERT); also a recurrence whose last state
    nothing uses (Qwen3-Next).
    """
    add, outer = one.add, block_of(other.add.scope)
    if outer is None or other.add is add or not f"{block}.".startswith(f"{outer}."):
        return False
    if not other.stream.number < add.number <= other.leaf.number:
        return False
    if add.shape != other.add.shape and not one.leaf.returned_by:
        return True
    is_block_output = add.shape[-1:] == other.add.shape[-1:] and any(name == block for name, _ in add.returned_by)
    return not is_block_output and depends(other.leaf, add)
