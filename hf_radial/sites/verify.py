"""The self-check of the sites: replay each block, and compare its output with its input plus its increments.

It does not depend on how the sites were found (`trace.py`, `residual.py`). It compares values at modules' inputs and outputs:

- *replay*: start from the block's input, add each site's vectors in the order in which they come, pass through a norm
  of the block where its input is the stream so far (post-norm blocks), and compare with the block's output;
- *intervention*, where the replay does not match (the block scales its increments, mixes several streams, ...): add a random
  `delta` to the site's vectors and look for the first tensor `v` downstream that changes by `c * delta`, with `c` a number or
  one number per channel (of each row) or per position, and that is not the vectors themselves: then `v = stream + c * h`.

In a model without a residual stream, a site is right if an activation takes it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hf_radial.sites.hooks import with_vectors
from hf_radial.sites.preserve import evaluating
from hf_radial.sites.residual import increments, pre_activations
from hf_radial.sites.site import Site, site_vectors
from hf_radial.sites.trace import trace

TOLERANCE = 1e-3
MOST_CANDIDATES = 64


@dataclass(frozen=True)
class BlockCheck:
    """The result of the self-check for one block.

    Attributes:
        block: its module name; empty for sites outside any block.
        sites: the names of the sites that this check covers.
        how: `"replay"`, `"intervention"`, `"pre-activation"` (an MLP's hidden layer, which an activation takes unchanged), or
            `"failed"`.
        error: the largest relative error: of `out = in + sum of increments` against the sum (replay), of `change = c * delta`
            against the change (intervention). `None` where there is nothing to compare.
        reason: why the check failed, for `"failed"`.
    """

    block: str
    sites: tuple[str, ...]
    how: str
    error: float | None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the sites are shown to be the block's increments."""
        return self.how != "failed"


@torch.no_grad()
def verify(model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Any]) -> list[BlockCheck]:
    """Check every site; see the module's docstring. It runs the model once, and once more for each site that the replay does
    not confirm.

    Args:
        model: the model of the sites; it runs in evaluation mode and does not change.
        sites: the sites.
        inputs: keyword arguments of the forward passes.

    Raises:
        Whatever the model's forward raises on these inputs.
    """
    with evaluating(model):
        calls = _block_calls(model, sites, inputs)
        return list(_checks(model, sites, inputs, calls))


def _checks(
    model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Any], calls: dict[str, list[_Call]]
) -> Iterator[BlockCheck]:
    replayed = {block: [_replay(call) for call in of_block] for block, of_block in calls.items()}
    left: list[Site] = []
    by_block: dict[str, list[str]] = {}
    for site in sites:
        good = [b for b in _blocks_around(site.name) if replayed.get(b) and None not in replayed[b]]
        if good:
            by_block.setdefault(good[-1], []).append(site.name)
        else:
            left.append(site)
    for block, names in by_block.items():
        yield BlockCheck(block, tuple(names), "replay", max(error for error in replayed[block] if error is not None))
    base = _observed(model, inputs) if left else []
    recorded = trace(model, inputs) if left else None
    has_stream = recorded is not None and bool(increments(recorded))
    activated = set() if recorded is None or has_stream else {name for _, (name, _), _ in pre_activations(recorded)}
    for site in left:
        check = _intervene(model, site, inputs, base)
        if check.how == "pre-activation" and has_stream:
            check = replace(check, how="failed", reason="it goes into an activation; what is added to the stream comes later")
        elif check.how == "failed" and site.name in activated:  # a function, whose input no hook sees
            check = replace(check, how="pre-activation", error=None, reason="")
        yield check


# Replay -------------------------------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """One call of a block: its input, in order `(site number, vectors)` or `(None, (norm's input, output))`, its output."""

    entered: Tensor | None
    events: list[tuple[int | None, Any]]
    returned: Tensor | None = None


def _block_calls(model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Any]) -> dict[str, list[_Call]]:
    modules = dict(model.named_modules())
    blocks = {block for site in sites for block in _blocks_around(site.name)}
    calls: dict[str, list[_Call]] = {block: [] for block in blocks}
    open_calls: list[tuple[str, _Call]] = []

    def enter(block: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        open_calls.append((block, _Call(_copy(_first(args, kwargs)), [])))

    def leave(block: str, module: nn.Module, args: Any, out: Any) -> None:
        call = open_calls.pop()[1]
        call.returned = _copy(_first(out))
        calls[block].append(call)

    def note(name: str, value: tuple[int | None, Any]) -> None:
        for block, call in open_calls:
            if name.startswith(block + "."):
                call.events.append(value)

    def passed(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        before, after = _first(args, kwargs), _first(out)
        if before is not None and after is not None and before is not after:
            note(name, (None, (before.clone(), after.clone())))

    def at_site(number: int, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if (h := site_vectors(sites[number], args, kwargs, out)) is not None:
            note(sites[number].name, (number, h.clone()))

    with _hooks() as add:
        for block in blocks:
            add(modules[block].register_forward_pre_hook(partial(enter, block), with_kwargs=True))
        for number, site in enumerate(sites):
            add(modules[site.name].register_forward_hook(partial(at_site, number), with_kwargs=True))
        for name, module in modules.items():
            # Only a norm: a module with parts or matrices could hide an increment that belongs to no site.
            plain = not any(True for _ in module.children()) and all(p.ndim < 2 for p in module.parameters())
            if plain and any(name.startswith(block + ".") for block in blocks):
                add(module.register_forward_hook(partial(passed, name), with_kwargs=True))
        for block in blocks:
            add(modules[block].register_forward_hook(partial(leave, block)))
        model(**inputs)
    return calls


def _replay(call: _Call) -> float | None:
    """The relative error between the block's output and the stream with all increments; `None` if no order uses them all."""
    if call.entered is None or call.returned is None:
        return None
    total = sum(number is not None for number, _ in call.events)
    streams: list[tuple[Tensor, int]] = [(call.entered.double(), 0)]  # the stream so far, and how many increments it has
    for number, value in call.events:
        if number is not None:
            h = value.double()
            new = [(s + h.reshape(s.shape), used + 1) for s, used in streams if s.numel() == h.numel()]
        else:
            before, after = value
            new = [
                (after.double(), used)
                for s, used in streams
                if s.numel() == before.numel() and _error(before.double(), s) < 1e-4
            ]
        streams = (new + streams)[:MOST_CANDIDATES]
    out = call.returned.double()
    change = (out - call.entered.double()).abs().max() if out.shape == call.entered.shape else None
    errors = [_error(s, out, change) for s, used in streams if total and used == total and s.numel() == out.numel()]
    return min((e for e in errors if e < TOLERANCE), default=None)


def _error(measured: Tensor, expected: Tensor, scale: Tensor | None = None) -> float:
    scale = expected.abs().max() if scale is None else torch.minimum(scale, expected.abs().max())
    return float((measured.reshape(expected.shape) - expected).abs().max() / scale.clamp(min=1e-12))


# Intervention -------------------------------------------------------------------------------------------------------------


def _intervene(model: nn.Module, site: Site, inputs: Mapping[str, Any], base: list[tuple[str, Tensor]]) -> BlockCheck:
    """Whether a change of the site's vectors reaches the stream as that change times a factor (per channel or position)."""
    block = (_blocks_around(site.name) or [""])[-1]
    vectors: list[Tensor] = []
    changed = _observed(model, inputs, site, vectors)
    if not vectors:
        return BlockCheck(block, (site.name,), "failed", None, "it was not called")
    h, delta = (v.double().movedim(site.dim, -1) for v in vectors)
    best, activated, first = float("inf"), False, site.dim == 1
    tolerance = max(TOLERANCE, 4 * torch.finfo(vectors[0].dtype).eps)  # in bfloat16, sums are rounded to eight bits
    for (name, before), (_, after) in zip(base, changed, strict=False):
        if before.shape != after.shape or torch.equal(before, after):
            continue
        if before.numel() == h.numel() and _error(_laid_out(before, h, first)[0], h) < 1e-6:
            module = dict(model.named_modules())[name]
            activated |= not any(True for _ in module.parameters()) and not _hands_on(module)
            continue
        errors = [_scaled(v, w, h, delta) for v, w in zip(_laid_out(before, h, first), _laid_out(after, h, first), strict=True)]
        best = min(best, max(errors, default=best))
        if errors and best < tolerance:
            return BlockCheck(block, (site.name,), "intervention", best)
    if activated:
        return BlockCheck(block, (site.name,), "pre-activation", None)
    reason = (
        "nothing downstream has its shape"
        if best == float("inf")
        else f"nothing downstream changes as it does (best: {best:.1%} off)"
    )
    return BlockCheck(block, (site.name,), "failed", None, reason)


def _observed(
    model: nn.Module, inputs: Mapping[str, Any], site: Site | None = None, vectors: list[Tensor] | None = None
) -> list[tuple[str, Tensor]]:
    """Every module's input and every list element's output, in order, after a random change of the site's vectors in their
    first call.

    It puts the original vectors and the change into `vectors`.
    """
    seen: list[tuple[str, Tensor]] = []

    def take(name: str, *values: Any) -> None:
        if (tensor := _first(*values)) is not None:
            seen.append((name, tensor.clone()))

    def change(h: Tensor) -> Tensor:
        assert vectors is not None
        size = h.float().std().to(h)
        delta = torch.randn(h.shape, generator=torch.Generator().manual_seed(0)).to(h) * (size if size > 0 else 1)
        vectors.extend([h.clone(), delta])
        return h + delta

    def at_site(module: nn.Module, args: Any, kwargs: Any, out: Any = None) -> Any:
        assert site is not None
        h = None if vectors else site_vectors(site, args, kwargs, out)
        return None if h is None else with_vectors(site, args, kwargs, out, change(h))

    with _hooks() as add:
        modules = dict(model.named_modules())
        if site is not None:
            module = modules[site.name]
            hook = module.register_forward_pre_hook if site.at_input else module.register_forward_hook
            add(hook(at_site, with_kwargs=True))
        for name, module in modules.items():
            add(module.register_forward_pre_hook(lambda m, args, kw, name=name: take(name, args, kw), with_kwargs=True))
            if re.search(r"(^|\.)\d+$", name):
                add(module.register_forward_hook(lambda m, args, out, name=name: take(name, out)))
        model(**inputs)
    return seen


def _laid_out(v: Tensor, h: Tensor, channels_first: bool) -> list[Tensor]:
    """`v` with `h`'s shape, channels last; several, if it holds several streams of that shape; none, if neither."""
    v, d = v.double(), h.shape[-1]
    if v.shape[:-1] == h.shape[:-1] and v.shape[-1] > d and v.shape[-1] % d == 0:
        v = v.unflatten(-1, (-1, d))
    if v.ndim == h.ndim + 1 and v.shape[:-2] == h.shape[:-1] and v.shape[-1] == d:
        return list(v.unbind(-2))
    if v.numel() != h.numel():
        return []
    if v.ndim > 2 and v.shape[1] == d and (channels_first or v.shape[-1] != d):
        v = v.movedim(1, -1)
    return [v.reshape(h.shape)]


def _scaled(before: Tensor, after: Tensor, h: Tensor, delta: Tensor) -> float:
    """How far the change is from `c * delta`, `c` a number or one per channel (of each row) or position; infinite where it is
    `h` alone."""
    errors = [float("inf")]
    for axes in (tuple(range(h.ndim)), tuple(range(h.ndim - 1)), tuple(range(1, h.ndim - 1)), (h.ndim - 1,)):
        if prod(h.shape[axis] for axis in axes) < 2:
            continue  # a single number always fits
        c = ((after - before) * delta).sum(axes, keepdim=True) / delta.square().sum(axes, keepdim=True)
        if (before - c * h).abs().max() > 1e-4 * before.abs().max():
            errors.append(_error(c * delta, after - before))
    return min(errors)


def _hands_on(module: nn.Module) -> bool:
    return isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)) or "Drop" in type(module).__name__


# Observing a forward -----------------------------------------------------------------------------------------------------


def _blocks_around(name: str) -> list[str]:
    """The list elements that a module is in, innermost first."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1) if parts[i - 1].isdigit()]


def _first(*values: Any) -> Tensor | None:
    return next((t for t in tree_leaves(values) if isinstance(t, Tensor) and t.is_floating_point()), None)


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()  # the model may write into it later


@contextmanager
def _hooks() -> Iterator[Callable[[torch.utils.hooks.RemovableHandle], None]]:
    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        yield handles.append
    finally:
        for handle in handles:
            handle.remove()
