"""Hooks on a model: the hook itself, its removal, the arguments of a call, and other vectors in a site's place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_radial.internals.torch_modules import forward_hooks
from hf_radial.sites.site import Site, site_vectors


class Hook:
    """A hook that is not copied or pickled with its model: the copy has no penalty, and none of our tensors.

    Args:
        call: what the hook does; `None` for nothing.
        name: whose hook it is, for `unhook`.
    """

    def __init__(self, call: Callable[..., Any] | None = None, name: str = "") -> None:
        self.call, self.name = call, name

    def __call__(self, *args: Any) -> Any:
        return None if self.call is None else self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[Any, ...]]:
        return Hook, ()


class RootHook(Hook):
    """A hook around the whole forward. `torch.compile` skips it; it would otherwise compile it for every sequence length."""

    @torch.compiler.disable
    def __call__(self, *args: Any) -> None:
        super().__call__(*args)


class ModelHook(Hook):
    """A hook that goes along into copies and pickles of its model, because it is part of what the model computes.

    Its `call` must be picklable and must not hold the trainer.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelHook:
        return ModelHook(copy.deepcopy(self.call, memo), self.name)

    def __reduce__(self) -> tuple[type[Hook], tuple[Any, ...]]:
        return ModelHook, (self.call, self.name)


def unhook(model: nn.Module, name: str) -> None:
    """Remove every hook of that name, wherever in the model it is."""
    for hooks in _hooks_of(model):
        for key in [key for key, hook in hooks.items() if _name(hook) == name]:
            del hooks[key]


def is_hooked(model: nn.Module, name: str) -> bool:
    """Whether the model has a hook of that name."""
    return any(_name(hook) == name for hooks in _hooks_of(model) for hook in hooks.values())


def order_hooks(model: nn.Module, names: Sequence[str]) -> None:
    """Let the hooks with these names be called in the order of the names; all other hooks keep their places."""
    for hooks in _hooks_of(model):
        ours = [key for key, hook in hooks.items() if _name(hook) in names]
        wanted = sorted(ours, key=lambda key: names.index(_name(hooks[key])))
        if wanted != ours:
            rest = iter(wanted)
            for key in [next(rest) if key in ours else key for key in hooks]:
                hooks[key] = hooks.pop(key)


def _hooks_of(model: nn.Module) -> Iterator[dict[int, Any]]:
    for module in model.modules():
        yield from forward_hooks(module)


def _name(hook: Any) -> str:
    return hook.name if isinstance(hook, Hook) else ""


def call_arguments(parameters: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one call of a module by name, and beside them what is in arguments that are mappings.

    Args:
        parameters: the names of the parameters of the module's forward, in order.
        args: what the call gives by position.
        kwargs: what it gives by name.

    >>> call_arguments(["batch", "scale"], [{"input_ids": 1}], {"scale": 2})
    {'input_ids': 1, 'batch': {'input_ids': 1}, 'scale': 2}
    """
    given: dict[str, Any] = {**dict(zip(parameters, args, strict=False)), **kwargs}
    for value in list(given.values()):
        if isinstance(value, Mapping):  # a forward that takes the batch as it is
            given = {**value, **given}
    return given


def with_vectors(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, h: Tensor) -> Any:
    """What a hook at the site returns, so that `h` goes on in place of `site_vectors`.

    Tuples, named tuples, lists and mappings (a `ModelOutput`, too) keep their class, and the model's own object is not changed.
    `None` for an output of another kind, in which nothing can be replaced.
    """
    if site.at_input:
        return ((h, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): h})
    if site.index is None:
        return h
    if isinstance(output, tuple):
        parts = list(output)
        parts[site.index] = h  # type: ignore[index]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if isinstance(output, (list, MutableMapping)):
        changed: Any = copy.copy(output)
        changed[site.index] = h
        return changed
    return None


Change = Callable[[Site, Tensor], Tensor]


def hook_sites(
    model: nn.Module,
    sites: Sequence[Site],
    change: Change,
    name: str = "",
    kind: type[Hook] = Hook,
    only_training: bool = False,
) -> None:
    """Let `change(site, vectors)` replace the vectors at every site. Hooks of the same name are removed first.

    Args:
        model: the model.
        sites: its sites.
        change: gives the vectors that go on.
        name: for `unhook`.
        kind: `ModelHook` if copies of the model are to have the hooks, too; then `change` must be picklable.
        only_training: leave the vectors alone in evaluation mode.
    """
    if name:
        unhook(model, name)
    modules = dict(model.named_modules())
    for site in sites:
        module = modules[site.name]
        register = module.register_forward_pre_hook if site.at_input else module.register_forward_hook
        register(kind(partial(_replace, change, only_training, site), name), with_kwargs=True)


def _replace(
    change: Change, only_training: bool, site: Site, module: nn.Module, args: Any, kwargs: Any, output: Any = None
) -> Any:
    h = site_vectors(site, args, kwargs, output) if module.training or not only_training else None
    if h is None:
        return None
    changed = with_vectors(site, args, kwargs, output, change(site, h))
    if changed is None:
        raise TypeError(f"site {site.name!r} gives a {type(output).__name__}, in which nothing can be replaced")
    return changed
