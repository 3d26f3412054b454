"""Radii, and the radial energy of a gradient, per site. The paper argues from them and does not show them.

`Phi = d * sum ||g_rad||^2 / sum ||g||^2` over the probe's vectors (arXiv 2606.32000, section 3). There `g` is the gradient of
the **task loss alone** at the site's vectors, and `g_rad` its part along them: 1 for an isotropic random gradient, `d` for a
radial one, 0 for a tangential one. `radial_energy_total` uses the gradient of the whole
loss instead, so it mostly measures the penalty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_radial.geometry.observe import SiteView
from hf_radial.geometry.precision import double
from hf_radial.geometry.reading import Reading
from hf_radial.penalty.functional import decompose, radius, split_gradient

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def radial_energy(g: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised radial energy of the gradients `g` at the vectors `h`, both of shape `(N, d)`.

    Returns:
        `(Phi, numerator, denominator)`: `d * mean ||g_rad||^2`, `mean ||g||^2` and their ratio, float64 scalars. The ratio is
        NaN where there is no gradient at all.

    Raises:
        ValueError: the shapes differ.

    >>> h = torch.eye(4)
    >>> [round(x.item(), 6) for x in radial_energy(3 * h, h)]
    [4.0, 36.0, 9.0]
    """
    g, h = double(g), double(h)
    g_rad, _ = split_gradient(g, h)
    numerator = h.shape[-1] * g_rad.square().sum(-1).mean()
    denominator = g.square().sum(-1).mean()
    return numerator / denominator, numerator, denominator


def turned(h: Tensor, before: Tensor) -> Tensor:
    """The angle in radians between each vector now and before, shape `(N,)`. Both have shape `(N, d)`; computed in float64.

    A vector of length zero, now or before, has no direction: its angle is NaN.

    >>> turned(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([1.5708], dtype=torch.float64)
    """
    (r, a), (r_before, b) = decompose(double(h)), decompose(double(before))
    # Not acos of the dot product: it loses half of the digits near 1, and consecutive measurements are close.
    angle = 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
    return torch.where((r > 0) & (r_before > 0), angle, torch.full_like(angle, torch.nan))


def radial_readings(view: SiteView, before: Tensor | None = None) -> list[Reading]:
    """The group `radial` of one site.

    Args:
        view: the site on the probe. Vectors that are not finite count only in `nonfinite`.
        before: the vectors of the same probe's first rows at the previous measurement, for the two speeds.
    """
    finite = view.finite
    count = int(finite.sum())
    readings = [("nonfinite", 1 - count / max(len(finite), 1))]
    if count == 0:
        return [Reading(metric, value, view.site.name, samples=len(finite)) for metric, value in readings]
    h = double(view.vectors[finite])
    r = radius(h)
    readings += [("radius_mean", r.mean().item()), ("radius_std", r.std(correction=0).item())]
    quantiles = torch.quantile(r, torch.tensor(QUANTILES, dtype=r.dtype, device=r.device)).tolist()
    readings += [(f"radius_q{round(100 * q):02d}", value) for q, value in zip(QUANTILES, quantiles, strict=True)]
    readings += [("radius_target", view.target), ("radius_minus_target", (r - view.target).mean().item())]
    task, pull = double(view.gradient[finite]), double(view.penalty_gradient[finite])
    energy, numerator, denominator = radial_energy(task, h)
    readings += [
        ("radial_energy", energy.item()),
        ("radial_energy_numerator", numerator.item()),
        ("radial_energy_denominator", denominator.item()),
        ("radial_energy_total", radial_energy(task + pull, h)[0].item()),
    ]
    if before is not None:
        both = view.vectors[: len(before)].to(before.device)
        there = both.isfinite().all(-1) & before.isfinite().all(-1)
        if len(both) == len(before) and there.any():
            now, then = double(both[there]), double(before[there])
            readings += [
                ("angular_speed", turned(now, then).nanmean().item()),
                ("radial_speed", (radius(now) - radius(then)).abs().mean().item()),
            ]
    return [Reading(metric, value, view.site.name, samples=count) for metric, value in readings]
