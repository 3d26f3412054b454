"""One forward pass, recorded: which operation made each tensor, from which tensors, and which modules returned it.

This file only records; `residual.py` finds the residual stream in the record. The model does not change. The record keeps
shapes and names, and no tensor outlives the forward. Tensors are told apart by identity. A write in place (`x += y`, also
through a view) makes a new version of every tensor that shares its storage.

It uses torch's `TorchDispatchMode`; see `docs/internals.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from hf_radial.internals.torch_modules import operation, storage_of, writes
from hf_radial.sites.preserve import evaluating

Index = (
    int | str | None
)  # a tensor's place in a module's output: position in a tuple, name in a mapping, None: it is the output


@dataclass(eq=False)
class Node:
    """One tensor of the forward.

    Attributes:
        number: rises in the order of execution.
        op: the ATen operation without its overload; `"parameter"` or `"input"` for tensors from before the forward.
        parents: the tensors that it was computed from.
        scope: names of the modules that were running, outermost first.
        inputs: names of the model's arguments that it depends on.
        constant: it depends on none of them, only on parameters and constants.
        axes: the permutation of axes, if the operation is one.
        returned_by: the modules that return it, innermost first, and its place in their output.
        overwritten: a later operation wrote into its memory.
    """

    number: int
    op: str
    parents: tuple[Node, ...]
    shape: tuple[int, ...]
    scope: tuple[str, ...] = ()
    inputs: frozenset[str] = frozenset()
    constant: bool = True
    axes: tuple[int, ...] | None = None
    returned_by: list[tuple[str, Index]] = field(default_factory=list)
    overwritten: bool = False


@dataclass(eq=False)
class Call:
    """One call of a module: its first floating point argument, and its floating point outputs."""

    module: str
    entered: Node | None
    returned: list[Node] = field(default_factory=list)


@dataclass
class Trace:
    """The record: all tensors in order, and all module calls in the order in which they began."""

    nodes: list[Node]
    calls: list[Call]


@torch.no_grad()
def trace(model: nn.Module, inputs: Mapping[str, Any], root: nn.Module | None = None) -> Trace:
    """Run `model(**inputs)` once in evaluation mode and record it. Training mode and random state are left as they are.

    With `root`, a part of the model, `root(**inputs)` is run; the names are those in the whole model.

    Raises:
        Whatever the model's forward raises on these inputs.
    """
    with evaluating(model), torch.random.fork_rng(devices=[]), _Recorder(model, inputs) as recorder:
        (model if root is None else root)(**inputs)
    return Trace(recorder.nodes, recorder.calls)


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.nodes: list[Node] = []
        self.calls: list[Call] = []
        self.open: list[Call] = []
        self.node_of: Any = WeakTensorKeyDictionary()
        self.last_write: dict[int, Node] = {}
        self.sharing: dict[int, list[Node]] = {}  # storage -> the tensors that have it
        for tensor in [*model.parameters(), *model.buffers()]:
            self.add("parameter", (), tensor)
        for name, value in inputs.items():
            for tensor in tree_leaves(value):
                if isinstance(tensor, Tensor):
                    self.add("input", (), tensor, inputs=frozenset([name]), constant=False)

    def __enter__(self) -> _Recorder:
        self.hooks = ExitStack()
        for name, module in self.model.named_modules():
            before = module.register_forward_pre_hook(
                lambda m, args, kw, name=name: self.enter(name, args, kw), with_kwargs=True
            )
            after = module.register_forward_hook(lambda m, args, out, name=name: self.leave(name, out))
            self.hooks.callback(before.remove)
            self.hooks.callback(after.remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.hooks.close()

    # Tensors ----------------------------------------------------------------------------------------------------------

    def add(self, op: str, parents: tuple[Node, ...], tensor: Tensor, **attributes: Any) -> Node:
        attributes.setdefault("inputs", frozenset().union(*(p.inputs for p in parents)))
        attributes.setdefault("constant", all(p.constant for p in parents))
        scope = tuple(call.module for call in self.open)
        node = Node(len(self.nodes), op, parents, tuple(tensor.shape), scope, **attributes)
        self.nodes.append(node)
        self.node_of[tensor] = node
        self.sharing.setdefault(storage_of(tensor), []).append(node)
        return node

    def node(self, tensor: Tensor) -> Node:
        """The newest version of a tensor."""
        node = self.node_of.get(tensor)
        if node is None:  # no recorded operation made it: a constant
            node = self.add("constant", (), tensor)
        written = self.last_write.get(storage_of(tensor))
        if written is not None and written is not node and written.number > node.number:
            node = self.add("alias_update", (node, written), tensor)
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        parents = tuple(self.node(a) for a in tensors)
        out = func(*args, **kwargs)
        op = operation(func)
        attributes: dict[str, Any] = {}
        if op in ("permute", "transpose", "t"):
            attributes["axes"] = _permutation(args, len(out.shape))
        results = [o for o in tree_leaves(out) if isinstance(o, Tensor)]
        if writes(func) and not results:  # foreach-like operations return nothing
            results = tensors[:1]
        held = {storage_of(tensor) for tensor in tensors}
        for result in results:
            if storage_of(result) not in held:  # new memory, perhaps at an address that was used before
                self.sharing.pop(storage_of(result), None)
                self.last_write.pop(storage_of(result), None)
            if writes(func):
                for earlier in self.sharing.get(storage_of(result), []):
                    earlier.overwritten = True
            node = self.add(op, parents, result, **attributes)
            if writes(func):
                self.last_write[storage_of(result)] = node
        return out

    # Modules ----------------------------------------------------------------------------------------------------------

    def enter(self, name: str, args: Any, kwargs: Any) -> None:
        first = next((a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor) and a.is_floating_point()), None)
        call = Call(name, None if first is None else self.node(first))
        self.calls.append(call)
        self.open.append(call)

    def leave(self, name: str, out: Any) -> None:
        call = self.open.pop()
        places: list[tuple[Index, Any]]
        if isinstance(out, Mapping):
            places = list(out.items())
        elif isinstance(out, (tuple, list)):
            places = list(enumerate(out))
        else:
            places = [(None, out)]
        for index, tensor in places:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                node = self.node(tensor)
                node.returned_by.append((name, index))
                call.returned.append(node)


def _permutation(args: Any, dimensions: int) -> tuple[int, ...]:
    axes = list(range(dimensions))
    if len(args) == 2:  # permute(x, dims)
        return tuple(a % dimensions for a in args[1])
    first, second = args[1:3] if len(args) == 3 else (0, 1)  # transpose(x, a, b), t(x)
    if dimensions > 1:
        axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)
