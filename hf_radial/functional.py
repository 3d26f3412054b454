"""Pure tensor mathematics of the hypersphere penalty: no model, no Trainer, no state.

In this file: the penalty of arXiv 2606.32000 (Eq. 1 to 3) and the split of a vector into radius and direction, of a
gradient into its radial and its tangential part. What is measured *about* a run (ranks, curvature, ...) is not here.

Every function takes vectors of any leading shape, with the channels on one axis (`dim`, the last by default), computes in
float32 or better whatever the input's dtype, and is safe at the origin: a zero vector has no direction, so its penalty
has gradient zero rather than NaN.
"""

from __future__ import annotations

from math import isfinite, sqrt

import torch
from torch import Tensor

SIDES = ("both", "above")
REDUCTIONS = ("mean", "sum", "none")


def radius(h: Tensor, dim: int = -1) -> Tensor:
    """Euclidean length `r = ||h||_2` of every vector, in float32 or better.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        dim: the channel axis.

    Returns:
        Tensor of `h`'s shape without axis `dim`. Its gradient at `h = 0` is zero.

    Raises:
        TypeError: `h` is not floating point.

    >>> radius(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5., 0.])
    """
    _check_vectors(h)
    return torch.linalg.vector_norm(h, dim=dim, dtype=_compute_dtype(h))


def radial_penalty(
    h: Tensor,
    radius: float | None = None,
    mask: Tensor | None = None,
    *,
    dim: int = -1,
    side: str = "both",
    reduction: str = "mean",
) -> Tensor:
    r"""Hypersphere penalty `L_norm(h) = (||h||_2 - R)^2 / d` (arXiv 2606.32000, Eq. 1; there `R = sqrt(d)`).

    Its gradient, `(2/d) (r - R) h / r`, is purely radial: it changes the length of a vector and never its direction.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        radius: the target `R` in the units of `h`, positive; `None` for the paper's `sqrt(d)`.
        mask: true (or non-zero) where a vector counts; of `h`'s shape without axis `dim`. `None` counts all.
        dim: the channel axis.
        side: `"both"` is the paper's penalty; `"above"` leaves vectors inside the sphere alone, so that it only ever
            shrinks (a variant of ours, for models whose vectors start far inside the sphere).
        reduction: `"mean"` over the vectors that count (zero if none does), `"sum"` over them, or `"none"`.

    Returns:
        A float32 (or float64) scalar; with `reduction="none"`, a tensor of `h`'s shape without axis `dim`.

    Raises:
        TypeError: `h` is not floating point.
        ValueError: `radius` is not a positive finite number, `mask` has another shape, or `side` or `reduction` is unknown.

    >>> h = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> radial_penalty(h, radius=1.0, reduction="none")
    tensor([8., 0.])
    >>> radial_penalty(h, radius=1.0, mask=torch.tensor([True, False]))
    tensor(8.)
    """
    if side not in SIDES:
        raise ValueError(f"side={side!r} is unknown; choose one of {', '.join(SIDES)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r} is unknown; choose one of {', '.join(REDUCTIONS)}")
    check_radius(radius)
    _check_vectors(h)
    d = h.shape[dim]
    # `vector_norm` and not sqrt(sum of squares): its gradient at the origin is zero, that of the square root is NaN.
    r = torch.linalg.vector_norm(h, dim=dim, dtype=_compute_dtype(h))
    if mask is not None and mask.shape != r.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)} but there is one vector for each of {tuple(r.shape)}")
    return penalty_of_radius(r, d, sqrt(d) if radius is None else radius, mask, side=side, reduction=reduction)


def penalty_of_radius(r: Tensor, d: int, target: float, mask: Tensor | None, *, side: str, reduction: str) -> Tensor:
    """`radial_penalty` of vectors whose radii `r` are known, unchecked; for callers that need the radii themselves too."""
    excess = r - target
    if side == "above":
        excess = excess.clamp(min=0)
    if mask is not None:
        # `where`, not a product, and before the square: 0 * inf of an overflow in the padding would be NaN, both ways.
        excess = torch.where(mask.bool(), excess, torch.zeros_like(excess))
    penalty = excess.square() / d
    if reduction == "none":
        return penalty
    total = penalty.sum()
    if reduction == "sum":
        return total
    count = penalty.numel() if mask is None else mask.bool().sum()
    return total / (max(count, 1) if isinstance(count, int) else count.clamp(min=1))


def decompose(h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Radius `r` and direction `h_hat = h / r` of every vector (paper, section 3): `h = r * h_hat`.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        dim: the channel axis.

    Returns:
        `(r, h_hat)`: `r` of `h`'s shape without axis `dim`, `h_hat` of `h`'s shape, both float32 or better. The direction
        of a zero vector is zero.

    Raises:
        TypeError: `h` is not floating point.

    >>> r, h_hat = decompose(torch.tensor([[3.0, 4.0]]))
    >>> r, h_hat
    (tensor([5.]), tensor([[0.6000, 0.8000]]))
    """
    r = radius(h, dim)
    length = r.unsqueeze(dim)
    return r, h.to(r.dtype) / torch.where(length > 0, length, torch.ones_like(length))


def split_gradient(g: Tensor, h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Radial and tangential part of `g` at `h`: `g_rad = P_r g`, `g_tan = (I - P_r) g`, `P_r = h h^T / r^2` (paper, section 3).

    Args:
        g: a gradient of `h`'s shape.
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        dim: the channel axis.

    Returns:
        `(g_rad, g_tan)`, both of `h`'s shape, float32 or better, with `g_rad + g_tan = g`. At a zero vector `g_rad = 0`.

    Raises:
        TypeError: `h` is not floating point.
        ValueError: `g` and `h` differ in shape.

    >>> g_rad, g_tan = split_gradient(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]]))
    >>> g_rad, g_tan
    (tensor([[0., 2.]]), tensor([[1., 0.]]))
    """
    if g.shape != h.shape:
        raise ValueError(f"g has shape {tuple(g.shape)} but h has {tuple(h.shape)}")
    _, h_hat = decompose(h, dim)
    g = g.to(h_hat.dtype)
    g_rad = (g * h_hat).sum(dim, keepdim=True) * h_hat
    return g_rad, g - g_rad


def check_radius(radius: float | None) -> None:
    """Raise a ValueError unless `radius` is `None` or a positive finite number."""
    if radius is not None and not (isfinite(radius) and radius > 0):
        raise ValueError(f"radius={radius} must be a positive finite number, or None for sqrt(d)")


def _check_vectors(h: Tensor) -> None:
    if not h.is_floating_point():
        raise TypeError(f"h has dtype {h.dtype}; a radius needs a floating point tensor")


def _compute_dtype(h: Tensor) -> torch.dtype:
    # bfloat16 holds 8 bits: a sum of 4096 squares kept in it would stop growing long before its end.
    return torch.float64 if h.dtype == torch.float64 else torch.float32
