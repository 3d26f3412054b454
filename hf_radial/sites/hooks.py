"""Hooks at a model's sites: the hook itself, and replacing the vectors there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from hf_radial.sites.site import Site, site_vectors


class Hook:
    """A hook that is not copied or pickled with its model: the copy has no penalty, and none of our tensors."""

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return None if self.call is None else self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


def with_vectors(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, h: Tensor) -> Any:
    """What a hook at the site returns to have `h` go on in place of `site_vectors`; `None` where a hook cannot."""
    if site.at_input:
        return ((h, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): h})
    if site.index is None:
        return h
    if type(output) not in (tuple, list):
        return None
    parts = list(output)
    parts[site.index] = h  # type: ignore[index]
    return type(output)(parts)


Change = Callable[[Site, Tensor], Tensor]


def hook_sites(model: nn.Module, sites: Sequence[Site], change: Change) -> None:
    """Let `change(site, vectors)` replace the vectors at every site, in training and in evaluation."""
    modules = dict(model.named_modules())

    def call(site: Site, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> Any:
        h = site_vectors(site, args, kwargs, output)
        if h is None:
            return None
        changed = with_vectors(site, args, kwargs, output, change(site, h))
        if changed is None:
            raise TypeError(f"site {site.name!r} gives a {type(output).__name__}, in which nothing can be replaced")
        return changed

    for site in sites:
        module = modules[site.name]
        register = module.register_forward_pre_hook if site.at_input else module.register_forward_hook
        register(Hook(partial(call, site)), with_kwargs=True)
