r"""Proposition 1 of arXiv 2606.32000 at one linear site: is the penalty's pull on `W` an anisotropic weight decay?

For `h = W x` the proposition says that far outside the sphere, `r >> R`, the gradient of the mean penalty on `W` is
`P = (2/d) W Sigma_x` with the uncentred `Sigma_x = E[x x^T]`: a weight decay that is strong along input directions of high
variance. The exact gradient is `G = (2/d) E[(1 - R/r) h x^T]`. This file compares `G` with `P`, and `G` with plain weight
decay, which pulls along `W`. It does not collect `x`, `h` and `W`.

Where the approximation stops holding:

- The factor `1 - R/r` is near 1 only for `r >> R` (0.9 at `r = 10 R`, half at `2 R`), is zero on the sphere and **changes
  sign below it**: there the penalty inflates `W` where the proposition says it shrinks it, and the cosine is negative.
  `shrink` is its mean. With side `"above"` it is zero below the sphere, with `"below"` above it.
- Vectors of unequal radius have unequal weights, so `G` is no multiple of `P`. The ratios show the difference per direction.
- With a bias, `h = W x + b`, the term `(2/d) b E[x]^T` remains even for `r >> R`. The proposition does not have it. It is zero
  only for centred inputs.
- If `Sigma_x` is nearly isotropic (one-hot inputs), `P` is parallel to `W`, and there is no anisotropy to measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan

import torch
from torch import Tensor, nn

from hf_radial.geometry.reading import Reading
from hf_radial.penalty.functional import SIDES, check_radius, decompose, on_side

DIRECTIONS = 16


@dataclass(frozen=True)
class Proposition1:
    """How the penalty's gradient `G` on a weight compares with Proposition 1's `P`.

    Attributes:
        cosine: between `G` and `P`; NaN where one of them is zero.
        weight_decay_cosine: between `G` and `W`, the direction of weight decay; NaN where one of them is zero.
        shrink: mean of the factor `1 - R/r`: 1 in the proposition's limit, negative below the sphere.
        eigenvalues: of `Sigma_x`, the largest first.
        ratios: `<G u_k, P u_k> / ||P u_k||^2` for their eigenvectors `u_k`; 1 where the proposition holds, NaN where
            `P u_k = 0`.
        samples: number of vectors.
    """

    cosine: float
    weight_decay_cosine: float
    shrink: float
    eigenvalues: tuple[float, ...]
    ratios: tuple[float, ...]
    samples: int


def proposition_1(
    x: Tensor, h: Tensor, weight: Tensor, radius: float | None = None, side: str = "both", directions: int = DIRECTIONS
) -> Proposition1:
    """Compare the penalty's gradient on a weight with Proposition 1; in float64.

    Args:
        x: the layer's inputs, `(N, d_in)`, without padding.
        h: its outputs, the penalised vectors, `(N, d)`, in the same order.
        weight: `W` of `h = W x + b`, `(d, d_in)`; `weight_of` gives it.
        radius: the penalty's target `R`; `None` for `sqrt(d)`.
        side: the penalty's side, `"both"`, `"above"` or `"below"`.
        directions: number of eigendirections of `Sigma_x`; fewer if its rank is lower.

    Raises:
        ValueError: shapes do not fit together, there is no vector, one is not finite, or `radius` or `side` is out of range.

    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> weight = torch.tensor([[100.0, 0.0], [0.0, 300.0]])
    >>> found = proposition_1(x, x @ weight.T, weight, radius=3.0)
    >>> [round(ratio, 6) for ratio in found.ratios], round(found.shrink, 6)
    ([0.99, 0.99], 0.99)
    """
    _check(x, h, weight, radius, side)
    n, d = h.shape
    x, h, weight = (tensor.detach().double() for tensor in (x, h, weight))
    target = d**0.5 if radius is None else radius
    gradient, factor = _penalty_gradient(x, h, target, side)
    predicted = 2 / d * (weight @ x.T) @ x / n
    eigenvalues, u = _eigendirections(x, directions)
    actual_pull, predicted_pull = gradient @ u, predicted @ u  # (d, k)
    squares = predicted_pull.square().sum(0)
    return Proposition1(
        cosine=_cosine(gradient, predicted),
        weight_decay_cosine=_cosine(gradient, weight),
        shrink=float(factor.mean()),
        eigenvalues=tuple(eigenvalues.tolist()),
        ratios=tuple(((actual_pull * predicted_pull).sum(0) / squares).tolist()),  # 0/0 is NaN
        samples=n,
    )


def proposition_readings(
    site: str, x: Tensor, h: Tensor, weight: Tensor, radius: float | None = None, side: str = "both"
) -> list[Reading]:
    """The group `proposition` of one site; arguments as for `proposition_1`. Undefined values (0/0) are left out.

    >>> x = torch.eye(2)
    >>> readings = proposition_readings("fc", x, 2 * x, 2 * x, radius=1.0)
    >>> [(reading.metric, reading.index, round(reading.value, 6)) for reading in readings][:4]
    [('prop1_cosine', None, 1.0), ('prop1_weight_decay_cosine', None, 1.0), ('prop1_shrink', None, 0.5),
     ('prop1_eigenvalue', 0, 0.5)]
    """
    found = proposition_1(x, h, weight, radius, side)
    numbers: list[tuple[str, int | None, float]] = [
        ("prop1_cosine", None, found.cosine),
        ("prop1_weight_decay_cosine", None, found.weight_decay_cosine),
        ("prop1_shrink", None, found.shrink),
        *(("prop1_eigenvalue", k, value) for k, value in enumerate(found.eigenvalues)),
        *(("prop1_ratio", k, value) for k, value in enumerate(found.ratios)),
    ]
    return [Reading(metric, v, site, index, samples=found.samples) for metric, index, v in numbers if isfinite(v)]


def weight_of(module: nn.Module) -> Tensor | None:
    """`W` of `W x + b`, `(d, d_in)`, if `module` is an `nn.Linear` or transformers' `Conv1D` (GPT-2); otherwise `None`.

    >>> weight_of(nn.Linear(3, 5)).shape
    torch.Size([5, 3])
    """
    if isinstance(module, nn.Linear):
        return module.weight
    from transformers.pytorch_utils import Conv1D

    return module.weight.T if isinstance(module, Conv1D) else None


def _penalty_gradient(x: Tensor, h: Tensor, target: float, side: str) -> tuple[Tensor, Tensor]:
    """Gradient on `W` of the mean penalty, `(d, d_in)`, and the factors `1 - R/r` of the vectors that have a direction."""
    n, d = h.shape
    r, h_hat = decompose(h)
    excess = on_side(r - target, side)
    factor = (excess / r)[r > 0]
    # A zero vector has no direction: h_hat and the penalty's gradient are zero there.
    return 2 / d * (excess.unsqueeze(1) * h_hat).T @ x / n, factor if len(factor) else factor.new_tensor([nan])


def _eigendirections(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of `E[x x^T]`, `(k,)`, and their eigenvectors, `(d_in, k)`, from the smaller Gram matrix."""
    n, d_in = x.shape
    if d_in <= n:
        values, u = torch.linalg.eigh(x.T @ x / n)
    else:
        values, v = torch.linalg.eigh(x @ x.T / n)
        u = x.T @ v
    # A zero eigenvalue, up to rounding, has no meaningful direction.
    real = int((values > values.max() * max(n, d_in) * torch.finfo(values.dtype).eps).sum())
    k = min(count, real)
    values, u = values.flip(0)[:k], u.flip(1)[:, :k]
    return values, u / u.norm(dim=0)


def _cosine(a: Tensor, b: Tensor) -> float:
    norms = float(a.norm() * b.norm())
    return float((a * b).sum()) / norms if norms > 0 else nan


def _check(x: Tensor, h: Tensor, weight: Tensor, radius: float | None, side: str) -> None:
    if side not in SIDES:
        raise ValueError(f"side={side!r} is unknown; choose one of {', '.join(SIDES)}")
    check_radius(radius)
    if x.ndim != 2 or h.ndim != 2 or len(x) != len(h) or weight.shape != (h.shape[1], x.shape[1]):
        raise ValueError(
            f"x of shape (N, d_in), h (N, d) and weight (d, d_in) do not fit: {tuple(x.shape)}, {tuple(h.shape)} and "
            f"{tuple(weight.shape)}; a Conv1D keeps its weight transposed"
        )
    if not len(x):
        raise ValueError("x and h hold no vector: is every position padding?")
    for name, tensor in (("x", x), ("h", h), ("weight", weight)):
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
