"""Pure tensor mathematics of the hypersphere penalty: no model, no Trainer, no state.

In this file: the penalty of arXiv 2606.32000 (Eq. 1 to 3), and the split of a vector into radius and direction and of a
gradient into its radial and tangential part. Not in this file: metrics of a run (ranks, curvature, ...).

Vectors may have any leading shape. Their channels are on one axis (`dim`, the last by default). Every function computes in
float32 or better for any input dtype. Every function is safe at the origin: a zero vector has no direction, so its penalty has
gradient zero rather than NaN.
"""

from __future__ import annotations

from math import inf, sqrt
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from hf_radial.internals.torch_compile import functorch_is_active

SIDES = ("both", "above", "below")
REDUCTIONS = ("mean", "sum", "none")
LARGEST = torch.finfo(torch.float32).max
FEW = 2**18  # `with_radius` uses plain autograd below this number of elements


def radius(h: Tensor, dim: int = -1) -> Tensor:
    """Euclidean length `r = ||h||_2` of every vector, in float32 or better.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        dim: the channel axis.

    Returns:
        Tensor of `h`'s shape without axis `dim`. Its gradient at `h = 0` is zero.

    Raises:
        TypeError: `h` is no floating point tensor.
        ValueError: `h` has no axis `dim`.

    >>> radius(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5., 0.])
    """
    _check_vectors(h, dim)
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

    Its gradient, `(2/d) (r - R) h / r`, is purely radial: it changes a vector's length and never its direction.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        radius: the target `R` in the units of `h`, at least 0; `None` for the paper's `sqrt(d)`.
        mask: true (or non-zero) where a vector counts; of `h`'s shape without axis `dim`. With `None` all vectors count.
        dim: the channel axis.
        side: `"both"` is the paper's penalty. Two variants of ours act on one side: `"above"` is a ceiling, which only shrinks
            vectors outside the sphere, and `"below"` a floor, which only lengthens vectors inside it.
        reduction: `"mean"` over the vectors that count (zero if none does), `"sum"` over them, or `"none"`.

    Returns:
        A float32 (or float64) scalar; with `reduction="none"`, a tensor of `h`'s shape without axis `dim`.

    Raises:
        TypeError: `h` is no floating point tensor, or `mask` no tensor.
        ValueError: `radius` is negative or not finite, `mask` has another shape, `h` has no axis `dim`, or `side` or
            `reduction` is unknown.

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
    _check_vectors(h, dim)
    d = h.shape[dim]
    # `vector_norm`, not the square root of a sum: its gradient at the origin is zero, that of the square root is NaN.
    r = torch.linalg.vector_norm(h, dim=dim, dtype=_compute_dtype(h))
    given: Any = mask
    if given is not None and not isinstance(given, Tensor):
        raise TypeError(f"mask is of type {type(mask).__name__}; give a tensor of shape {tuple(r.shape)}")
    if mask is not None and mask.shape != r.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)} but there is one vector for each of {tuple(r.shape)}")
    return penalty_of_radius(r, d, sqrt(d) if radius is None else radius, mask, side=side, reduction=reduction)


def penalty_of_radius(
    r: Tensor, d: int | Tensor, target: float | Tensor, mask: Tensor | None, *, side: str, reduction: str
) -> Tensor:
    """`radial_penalty` for known radii `r`, without checks. For callers that also need the radii.

    `d` and `target` may be tensors that broadcast with `r`.
    """
    excess = on_side(r - target, side)
    if mask is not None:
        # Filled before the square, not multiplied: if padding overflows, 0 * inf is NaN, in the forward and the backward pass.
        excess = excess.masked_fill(~mask.bool(), 0.0)
    penalty = excess.square() / d
    if reduction == "none":
        return penalty
    total = penalty.sum()
    if reduction == "sum":
        return total
    count = penalty.numel() if mask is None else mask.bool().sum()
    return total / (max(count, 1) if isinstance(count, int) else count.clamp(min=1))


def on_side(excess: Tensor, side: str) -> Tensor:
    """`r - R` where the penalty of this side acts, and 0 elsewhere."""
    if side == "both":
        return excess
    return excess.clamp(min=0) if side == "above" else excess.clamp(max=0)


def with_radius(h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """`h` and its `radius`. The model must go on with the returned `h`; then nothing is computed twice.

    Both gradients reach the given `h` in one pass, `g_h + (g_r / r) h`, which reads the gradient and the vectors once and
    writes once. With `radius`, autograd writes `(g_r / r) h` in several steps and then adds it. Below 2^18 numbers this
    function does the same, because it is faster there.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        dim: the channel axis.

    Returns:
        `(h, r)`: `h` itself, not a copy, and its radius as from `radius`. Modify neither in place.

    Raises:
        TypeError: `h` is no floating point tensor.
        ValueError: `h` has no axis `dim`.

    >>> h = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> same, r = with_radius(h)
    >>> (same.sum() + 10 * r.sum()).backward()
    >>> h.grad  # 1 of the sum, and 10 times the direction
    tensor([[7., 9.]])
    """
    # For few numbers, several passes in C++ are faster than one from Python. A compiler fuses the steps itself. torch.func
    # requires another kind of autograd function, which is slower here.
    if h.numel() < FEW or torch.compiler.is_compiling() or functorch_is_active():
        return h, radius(h, dim)
    _check_vectors(h, dim)
    return _WithRadius.apply(h, dim)


class _WithRadius(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        r = torch.linalg.vector_norm(h, dim=dim, dtype=_compute_dtype(h))
        ctx.dim = dim
        ctx.save_for_backward(h, r)
        ctx.set_materialize_grads(False)
        return h, r

    @staticmethod
    def backward(ctx: Any, g_h: Tensor | None, g_r: Tensor | None) -> tuple[Tensor | None, None]:
        if g_r is None:
            return g_h, None
        h, r = ctx.saved_tensors
        # Where r is zero, h is zero too, and so is its product with any finite number.
        pull = (g_r / r.clamp(min=1e-30)).unsqueeze(ctx.dim)
        if g_h is None:
            return (pull * h).to(h.dtype), None
        if h.dtype == pull.dtype:
            return torch.addcmul(g_h, pull, h), None
        if torch.is_grad_enabled():  # double backward: `out=` has no gradient
            return (g_h + pull * h).to(h.dtype), None
        # Computed in float32 and rounded once. A GPU needs no float32 tensor of h's size for it.
        return torch.addcmul(g_h, pull, h, out=torch.empty_like(h)), None


def decompose(h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Radius `r` and direction `h_hat = h / r` of every vector (paper, section 3): `h = r * h_hat`.

    Args:
        h: vectors of shape `(..., d)`, or with `d` on axis `dim`; floating point.
        dim: the channel axis.

    Returns:
        `(r, h_hat)`: `r` of `h`'s shape without axis `dim`, `h_hat` of `h`'s shape, both float32 or better. The direction
        of a zero vector is zero.

    Raises:
        TypeError: `h` is no floating point tensor.
        ValueError: `h` has no axis `dim`.

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
        TypeError: `g` or `h` is no floating point tensor.
        ValueError: `g` and `h` differ in shape, or have no axis `dim`.

    >>> g_rad, g_tan = split_gradient(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]]))
    >>> g_rad, g_tan
    (tensor([[0., 2.]]), tensor([[1., 0.]]))
    """
    _check_vectors(g, dim, "g")
    _check_vectors(h, dim)
    if g.shape != h.shape:
        raise ValueError(f"g has shape {tuple(g.shape)} but h has {tuple(h.shape)}")
    _, h_hat = decompose(h, dim)
    g = g.to(h_hat.dtype)
    g_rad = (g * h_hat).sum(dim, keepdim=True) * h_hat
    return g_rad, g - g_rad


def check_radius(radius: float | None) -> None:
    """Raise a ValueError unless `radius` is `None` or at least 0 and finite in float32. At 0 the target is the origin."""
    if radius is not None and not (is_number(radius) and radius >= 0):
        raise ValueError(f"radius={radius!r:.40} must be a number, finite in float32 and not negative, or None for sqrt(d)")


def is_number(value: Any) -> bool:
    """Whether `value` is a number that is finite in float32; true and false are none.

    >>> is_number(0.5), is_number(1e300), is_number(True), is_number("0.5")
    (True, False, False, False)
    """
    size: Any = abs(value) if isinstance(value, Real) else inf
    return not isinstance(value, bool) and bool(size <= LARGEST)


def _check_vectors(h: Any, dim: int, name: str = "h") -> None:
    if not isinstance(h, Tensor):
        raise TypeError(f"{name} is of type {type(h).__name__}; give a tensor of vectors, such as torch.tensor([[3.0, 4.0]])")
    if not h.is_floating_point():
        raise TypeError(f"{name} has dtype {h.dtype}; a radius needs a floating point tensor")
    if not isinstance(dim, int) or not -h.ndim <= dim < h.ndim:
        raise ValueError(f"dim={dim!r} is no axis of {name}, whose shape is {tuple(h.shape)}; -1 is the last axis")


def _compute_dtype(h: Tensor) -> torch.dtype:
    # bfloat16 has 8 bits of precision: a running sum of 4096 squares would stop growing long before its end.
    return torch.float64 if h.dtype == torch.float64 else torch.float32
