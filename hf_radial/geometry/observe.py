"""One forward and backward of the task loss on a probe batch: the vectors of every site, and the gradient at them.

Nothing about the model changes: no `.grad` is written, and modes, random states and hooks are restored. The model runs in
evaluation mode (no dropout, no batch statistics, no gradient checkpointing), in float32 and not compiled, however it trains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_radial.geometry.proposition import weight_of
from hf_radial.internals.trainer_parts import forward_without_autocast
from hf_radial.penalty.functional import penalty_of_radius, radius
from hf_radial.penalty.vectors import PADDING_MASKS, mask_for, padding_mask, parameter_names
from hf_radial.sites.hooks import call_arguments, with_vectors
from hf_radial.sites.preserve import evaluating, preserve_random_state
from hf_radial.sites.site import Site, site_vectors

LossOf = Callable[[nn.Module, dict[str, Any]], Tensor]


@dataclass
class SiteView:
    """One site on the probe; `N` vectors that are not padding, of width `d`, in the order of the batch.

    Attributes:
        site: the site.
        target: its target radius `R`, also where there is no penalty.
        vectors: `h`, shape `(N, d)`, float32 or better, detached.
        gradient: of the task loss at `h`, the same shape.
        penalty_gradient: of the weighted penalty of all sites at `h`, the same shape; zero without a penalty.
        inputs: the inputs of its module, shape `(N, d_in)`, if they were asked for and the module is linear.
    """

    site: Site
    target: float
    vectors: Tensor
    gradient: Tensor
    penalty_gradient: Tensor
    inputs: Tensor | None = None

    @property
    def finite(self) -> Tensor:
        """True for vectors whose channels are all finite, shape `(N,)`."""
        return self.vectors.isfinite().all(-1)


@dataclass
class Observation:
    """The probe's task loss, a scalar, and its sites."""

    loss: Tensor
    sites: list[SiteView] = field(default_factory=list)


def model_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The loss that the model itself returns for a batch with labels.

    Raises:
        ValueError: it returns none.
    """
    outputs = model(**batch)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor):
        raise ValueError(
            f"{type(model).__name__} returned no loss for a batch of {', '.join(batch)}: give a batch with labels, or "
            "loss=..., a function of the model and the batch that returns the loss"
        )
    return loss


@contextmanager
def quiet(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and float32, for measurements. Afterwards the model and the random states are as before.

    Yields the model itself, or a float32 copy with its own parameters where weights are in half precision.
    """
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
    with ExitStack() as stack:
        stack.enter_context(preserve_random_state(seed=0))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(_device(model).type, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        if half and not getattr(model, "is_quantized", False):
            # accelerate's autocast lives in `forward` of the instance, and a copy would call the original's.
            model = copy.deepcopy(model).float()
            vars(model).pop("forward", None)
        elif (plain := forward_without_autocast(model)) is not None:
            stack.enter_context(_attribute(model, "forward", plain))
        stack.enter_context(evaluating(model))
        yield model


def twice_differentiable() -> Any:
    """A context in which torch's attention has second derivatives; its fast kernels have none."""
    return sdpa_kernel(SDPBackend.MATH)


def observe(
    model: nn.Module,
    batch: Mapping[str, Any],
    sites: Sequence[Site],
    *,
    loss_of: LossOf = model_loss,
    targets: Mapping[str, float] | None = None,
    radial_lambda: float = 0.0,
    side: str = "both",
    with_inputs: bool = False,
) -> Observation:
    """Run the task loss of `batch` forward, and back to every site. Call it within `quiet(model)`, on the model that it yields.

    Args:
        model: as `quiet` yields it.
        batch: `{name: tensor}`.
        sites: the sites, as `find_sites` returns them.
        loss_of: the task loss.
        targets: target radius `R` by site's name; `sqrt(d)` for a site without one.
        radial_lambda: weight of the penalty, for `penalty_gradient`.
        side: the penalty's side, see `radial_penalty`.
        with_inputs: also keep the inputs of linear sites.

    Raises:
        RuntimeError: a site was not reached.
        ValueError: there is no loss, or a site's padding cannot be told.
    """
    seen = _Collector(model, sites, with_inputs)
    with seen:
        loss = loss_of(model, dict(batch))
    silent = [site.name for site, calls in zip(sites, seen.calls, strict=True) if not calls]
    if silent:
        raise RuntimeError(f"the probe did not reach {', '.join(silent[:3])}; measure other sites, or give a probe that does")
    loss = loss.mean()
    calls = [call for calls in seen.calls for call in calls]
    tensors = [call.h for call in calls]
    gradients = _gradients(loss, tensors)
    penalty = torch.zeros((), device=loss.device)
    chosen = []
    for site, of_site in zip(sites, seen.calls, strict=True):
        width = of_site[0].h.shape[site.dim]
        chosen.append((targets or {}).get(site.name, sqrt(width)))
        if radial_lambda > 0:
            penalty = penalty + radial_lambda * _mean_penalty(site, of_site, chosen[-1], side).to(loss.device)
    pulls = _gradients(penalty, tensors) if radial_lambda > 0 else [torch.zeros_like(h) for h in tensors]
    rows = iter(zip(calls, gradients, pulls, strict=True))
    views = []
    for site, target, of_site in zip(sites, chosen, seen.calls, strict=True):
        parts: list[list[Tensor]] = [[], [], [], []]
        for _ in of_site:
            call, gradient, pull = next(rows)
            for part, tensor in zip(parts, (call.h.detach(), gradient, pull), strict=False):
                part.append(_counted(tensor, site.dim, call.mask))
            if call.x is not None:
                parts[3].append(_counted(call.x, -1, call.mask))
        h, gradient, pull = (torch.cat(part) for part in parts[:3])
        views.append(SiteView(site, target, h, gradient, pull, torch.cat(parts[3]) if parts[3] else None))
    return Observation(loss.detach(), views)


@dataclass
class _Call:
    h: Tensor
    mask: Tensor | None
    x: Tensor | None


class _Collector:
    """Hooks on the sites, while one loss is computed."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], with_inputs: bool) -> None:
        self.model, self.sites, self.with_inputs = model, sites, with_inputs
        self.calls: list[list[_Call]] = [[] for _ in sites]
        self.masks: dict[str, Tensor | None] = {}
        self.names = parameter_names(model)
        self.hooks = ExitStack()

    def __enter__(self) -> _Collector:
        modules = dict(self.model.named_modules())
        handles = [self.model.register_forward_pre_hook(self._enter, with_kwargs=True)]
        for index, site in enumerate(self.sites):
            module = modules[site.name]
            register = module.register_forward_pre_hook if site.at_input else module.register_forward_hook
            handles.append(register(partial(self._take, index), with_kwargs=True))
        for handle in handles:
            self.hooks.callback(handle.remove)
        return self

    def __exit__(self, *_: Any) -> None:
        self.hooks.close()

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = call_arguments(self.names, args, kwargs)
        self.masks = {name: padding_mask(given, name) for name in PADDING_MASKS}

    def _take(self, index: int, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> Any:
        site = self.sites[index]
        h = site_vectors(site, args, kwargs, output)
        if h is None or not torch.is_grad_enabled():
            return None
        passed_on = None
        if not h.requires_grad:  # everything before it is frozen
            passed_on = h = h.detach().requires_grad_()
        if site.in_place:
            passed_on = h.clone()  # the model overwrites it later
        lengths = radius(h.detach(), site.dim)
        x = None
        if self.with_inputs and args and not site.at_input and site.index is None and weight_of(module) is not None:
            x = args[0].detach()
        self.calls[index].append(_Call(h, mask_for(lengths, self.masks.get(site.mask or ""), site), x))
        return None if passed_on is None else with_vectors(site, args, kwargs, output, passed_on)


def _mean_penalty(site: Site, calls: Sequence[_Call], target: float, side: str) -> Tensor:
    sums, count = [], 0
    for call in calls:
        r = radius(call.h, site.dim)
        sums.append(penalty_of_radius(r, call.h.shape[site.dim], target, call.mask, side=side, reduction="sum"))
        count += r.numel() if call.mask is None else int(call.mask.sum())
    return torch.stack(sums).sum() / max(count, 1)


def _gradients(value: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(h) for h in tensors]
    found = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(h) if g is None else g for h, g in zip(tensors, found, strict=True)]


def _counted(tensor: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    rows = tensor.movedim(dim, -1)
    rows = rows.reshape(-1, rows.shape[-1]) if mask is None else rows[mask]
    return rows.float() if rows.dtype != torch.float64 else rows


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def _attribute(thing: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(thing)[name]
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, before)
