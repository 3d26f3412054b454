"""Sums of penalties and radii by site: of one forward pass (`PassSums`), and their record (`SiteSums`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_radial.penalty.functional import penalty_of_radius
from hf_radial.penalty.vectors import mask_for
from hf_radial.sites.find import Sites
from hf_radial.sites.site import Site

MOST_GROUPS = 64
SUMS = ("penalty", "radius", "count")
Call = tuple[int, Tensor]  # number of the site, and the radii of one call of it


@dataclass(frozen=True)
class SiteSums:
    """Sums over the vectors collected since the last `take`: one entry per site, on the model's device.

    Attributes:
        penalty: sum of `L_norm` over the counted vectors, differentiable, float32 or better, shape `(sites,)`.
        radius: sum of `r` over the counted vectors, detached, shape `(sites,)`.
        count: number of counted vectors, int64, shape `(sites,)`.
        divisor: `count`, at least 1 and of `penalty`'s dtype, if it is already known; else `None`.
    """

    penalty: Tensor
    radius: Tensor
    count: Tensor
    divisor: Tensor | None = None

    def mean_penalty(self) -> Tensor:
        """Mean penalty of each site, shape `(sites,)`. It is zero if no vector was counted."""
        if self.divisor is not None:
            return self.penalty / self.divisor
        # One dtype: a division of mixed dtypes would convert the count in the forward and again in the backward pass.
        return self.penalty / self.count.clamp(min=1).to(self.penalty.dtype)


def add_passes(passes: Sequence[SiteSums]) -> SiteSums:
    """The sums of several forward passes together; at least one."""
    if len(passes) == 1:
        return passes[0]
    return SiteSums(*(torch.stack([getattr(sums, name) for sums in passes]).sum(0) for name in SUMS))


@dataclass(frozen=True)
class _Group:
    """Calls of sites in one forward pass that share their number of vectors and their mask. They are computed together.

    The tensors are made only once: in every step, a copy from the host would wait for the device, and a Python number would be
    converted. `calls` are positions among the calls of the pass. `numbers` and `where` are the positions of their sites, and
    `site` is one of these sites. `d` and `target` are columns that broadcast with radii of shape `(calls, ...)`. `count` is the
    number of vectors if none is padding, and `divisor` is as in `SiteSums`.
    """

    calls: list[int]
    numbers: list[int]
    site: Site
    d: Tensor
    target: Tensor
    count: Tensor
    divisor: Tensor
    where: Tensor


class PassSums:
    """Adds up the penalties and radii of forward passes, by site.

    Calls of sites that share shape, mask and device are computed together. The constants of each such group are kept for later
    passes with the same calls.

    Args:
        sites: of the penalty.
        side: as in `RadialPenalty`.
    """

    def __init__(self, sites: Sites, side: str) -> None:
        self.sites, self.side = sites, side
        self._groups: dict[tuple[Any, ...], list[_Group]] = {}  # by sites, shapes, dtypes and targets of a pass

    def add_up(
        self,
        radii: Sequence[Call],
        masks: Mapping[str, Tensor | None],
        targets: Iterable[float] | None,
        target_of: Callable[[Site], float],
        strict: bool,
    ) -> tuple[SiteSums, list[int]] | None:
        """The sums of one forward pass, and the numbers of the sites in them. `None` if no site could be measured.

        Args:
            radii: of the calls of the pass.
            masks: padding masks of the pass by name.
            targets: all targets that are known; other ones need other constants. `None` while calibrating.
            target_of: the target of a site.
            strict: whether a mask that does not fit a site is an error. Otherwise it is a warning, and the site is left out.

        Raises:
            ValueError: `strict`, and a mask does not fit a site.
            Whatever `target_of` raises.
        """
        key = (*((i, r.shape, r.dtype, r.device) for i, r in radii), None if targets is None else tuple(targets))
        groups = self._groups.get(key)
        if groups is None:
            if len(self._groups) >= MOST_GROUPS:  # batches of many different shapes
                self._groups.clear()
            groups = self._groups[key] = self._make_groups(radii, target_of)
        sums: list[SiteSums] = []
        summed: list[_Group] = []
        for group in groups:
            try:
                sums.append(self._sums(group, radii, masks))
                summed.append(group)
            except ValueError as error:
                if strict:
                    raise
                warnings.warn(f"not measured: {error}", stacklevel=3)
        if not sums:
            return None
        seen = summed[0].numbers if len(summed) == 1 else [i for group in summed for i in group.numbers]
        if len(sums) == 1 and seen == list(range(len(self.sites))):
            return sums[0], seen
        # A pass may use a site several times, or not at all.
        device = sums[0].penalty.device
        where = torch.cat([group.where.to(device) for group in summed])
        columns = (torch.cat([getattr(part, name).to(device) for part in sums]) for name in SUMS)
        return SiteSums(*(c.new_zeros(len(self.sites)).index_add(0, where, c) for c in columns)), seen

    def _make_groups(self, radii: Sequence[Call], target_of: Callable[[Site], float]) -> list[_Group]:
        """The calls of a forward pass, in groups that can be computed together."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for call, (i, r) in enumerate(radii):
            site = self.sites[i]
            groups.setdefault((r.shape, r.dtype, r.device, site.mask, site.sequence_first), []).append(call)
        return [self._group(calls, radii, target_of) for calls in groups.values()]

    def _group(self, calls: list[int], radii: Sequence[Call], target_of: Callable[[Site], float]) -> _Group:
        numbers, r = [radii[call][0] for call in calls], radii[calls[0]][1]
        sites = [self.sites[i] for i in numbers]

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=r.dtype, device=r.device).reshape(-1, *(1 for _ in r.shape))

        count = torch.full((len(calls),), r.numel(), device=r.device)
        return _Group(
            calls,
            numbers,
            sites[0],
            d=column([width_of(site) for site in sites]),
            target=column([target_of(site) for site in sites]),
            count=count,
            divisor=count.clamp(min=1).to(r.dtype),
            where=torch.tensor(numbers, device=r.device),
        )

    def _sums(self, group: _Group, radii: Sequence[Call], masks: Mapping[str, Tensor | None]) -> SiteSums:
        """Penalty sums, radius sums and counts of a group's calls, each of shape `(calls,)`."""
        r = torch.stack([radii[call][1] for call in group.calls])
        mask = mask_for(r[0], masks.get(group.site.mask or ""), group.site)
        value = penalty_of_radius(r, group.d, group.target, mask, side=self.side, reduction="none").flatten(1).sum(1)
        lengths = r.detach().flatten(1)
        if mask is None:
            return SiteSums(value, lengths.sum(1), group.count, group.divisor)
        counted = mask.flatten()
        return SiteSums(value, lengths.masked_fill(~counted, 0.0).sum(1), counted.sum().expand(len(group.calls)))


def width_of(site: Site) -> int:
    """The width of a site.

    Raises:
        RuntimeError: it is not known yet.
    """
    if site.width is None:
        raise RuntimeError(f"site {site.name!r} was never measured")
    return site.width
