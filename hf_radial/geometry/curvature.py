r"""How curved the loss is: trace and largest eigenvalue of its Hessian, and sharpness, from a loss closure alone.

Here: exact Hessian-vector products, Hutch++ and Hutchinson for the trace, Lanczos for the largest eigenvalue, two sharpnesses.
Not here: the choice of loss and moment. The caller's closure runs the task loss on fixed rows with the model in evaluation
mode, without autocast, and with an attention that can be differentiated twice (`sdpa_kernel(SDPBackend.MATH)` or `"eager"`).

It does not use curvlinops 3.0.1, which is no faster, needs 9 more packages, and is wrong for models with a LayerNorm, because
torch 2.13's `jvp` of `jacrev` is wrong there. `recipes/curvature_choice.py` measures this:
`recipes/results/curvature_choice.md`.

The model's `train` flag, `.grad` and the global random state do not change. Products are computed in the parameters' dtype
(autograd's), sums over parameters in float64. Vectors are flat, of shape `(P,)` for `P` parameters. The memory is that of the
gradient's graph plus vectors: two thirds of `probes` (Hutch++), or one per iteration (Lanczos).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import hypot, isfinite, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from hf_radial.geometry.reading import Reading

METHODS = ("hutch++", "hutchinson")
_CHUNK = 1 << 20  # numbers converted to float64 at a time


class Estimate(NamedTuple):
    """An estimated number: its value, its standard error (of `lambda_max`: its residual bound) and the number of samples or
    products behind it."""

    value: float
    standard_error: float
    samples: int


class Hessian:
    """The Hessian of a loss at the current parameters, as a product with vectors.

    The constructor builds the graph of the gradient once, and every product uses it. It lives as long as this object. The
    parameters must not change meanwhile.

    Args:
        loss: gives the loss, a scalar tensor.
        parameters: the parameters to differentiate by. Repeated ones and those without `requires_grad` are left out. Those
            that the loss does not depend on have zero rows.

    Raises:
        ValueError: the loss is not finite, not a scalar, or depends on none of the parameters.

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> Hessian(lambda: (w[0] ** 2 * w[1]).sum(), [w]).product(torch.tensor([1.0, 0.0]))
    tensor([4., 2.])
    """

    def __init__(self, loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        self.parameters = trainable(parameters)
        self.loss, gradients = _loss_and_gradient(loss, self.parameters, twice=True)
        # A constant gradient (the loss is linear in a parameter, or independent of it) has no derivative in the graph.
        self._curved = [i for i, gradient in enumerate(gradients) if gradient.requires_grad]
        self._gradients = [gradients[i] for i in self._curved]
        self._sizes = [p.numel() for p in self.parameters]

    @property
    def size(self) -> int:
        """`P`, the number of parameters."""
        return sum(self._sizes)

    def product(self, vector: Tensor) -> Tensor:
        """`H v` by double backward, exact up to rounding; `(P,)` to `(P,)`, float32 or better.

        Raises:
            RuntimeError: something in the model has no second derivative.
        """
        pieces = [v.view_as(p) for v, p in zip(vector.split(self._sizes), self.parameters, strict=True)]
        if not self._curved:
            return torch.zeros_like(vector)
        try:
            products = torch.autograd.grad(
                self._gradients,
                self.parameters,
                [pieces[i].to(self.parameters[i].dtype) for i in self._curved],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise RuntimeError(
                f"the loss cannot be differentiated twice ({error}); compute it under "
                'torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or load the model with attn_implementation="eager"'
            ) from error
        return torch.cat([p.reshape(-1).to(vector) for p in products])

    def random_vector(self, generator: torch.Generator) -> Tensor:
        """Random signs of shape `(P,)` (Rademacher), drawn on the CPU, so that they are the same on every device."""
        signs = torch.randint(0, 2, (self.size,), generator=generator, dtype=torch.int8) * 2 - 1
        first = self.parameters[0]
        return signs.to(first.device, torch.promote_types(first.dtype, torch.float32))


def hessian_trace(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    probes: int = 32,
    seed: int = 0,
    method: str = "hutch++",
) -> Estimate:
    r"""`Tr(H)` with its standard error.

    Hutchinson: the mean of `v^T H v` over random signs `v`. Hutch++ (Meyer, Musco, Musco and Woodruff 2021, Algorithm 1):
    the exact trace on the span `Q` of `H S` for random signs `S`, plus Hutchinson on the orthogonal complement. The large
    eigenvalues, which make Hutchinson noisy, are then exact. It gains nothing where no few eigenvalues dominate, as in some
    fitted networks. Both are unbiased. The standard error is that of the mean of the samples; for Hutch++, of the samples
    outside `Q`, a third of `probes`. With 12 samples it is known to about 20 %, and three of it cover 98.8 % (Student's t).

    Args:
        loss: gives the loss, a scalar tensor.
        parameters: as for `Hessian`.
        probes: number of Hessian-vector products: at least 4, or 2 for Hutchinson.
        seed: random seed of the signs.
        method: `"hutch++"` or `"hutchinson"`.

    Returns:
        Value, standard error and `probes`.

    Raises:
        ValueError: as `Hessian`; `probes` is too small, or `method` is unknown.

    >>> w = torch.ones(3, requires_grad=True)
    >>> hessian_trace(lambda: (torch.tensor([1.0, 2.0, 3.0]) * w**2).sum(), [w], method="hutchinson")
    Estimate(value=12.0, standard_error=0.0, samples=32)
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")
    _check_probes(probes, 4 if method == "hutch++" else 2)
    hessian = Hessian(loss, parameters)
    generator = torch.Generator().manual_seed(seed)
    if method == "hutch++":
        return _both_traces(hessian, probes, generator)[0]
    samples = []
    for _ in range(probes):
        v = hessian.random_vector(generator)
        samples.append(_dot(v, hessian.product(v)))
    return _mean(samples)


def lambda_max(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    tolerance: float = 1e-3,
    max_products: int = 64,
    seed: int = 0,
) -> Estimate:
    """The algebraically largest eigenvalue of the Hessian; the most positive one, if the Hessian is indefinite.

    Lanczos with full reorthogonalisation from random signs, until the residual of the Ritz pair is below `tolerance` times
    its value, or all products are spent. The value is the Rayleigh quotient `y^T H y` of a unit vector `y`, which is never
    above the largest eigenvalue. The error is the norm of `H y - value y`, computed with one more product: some eigenvalue is
    that close. (This does not prove that it is the largest, but a random start misses only one with a tiny gap.)

    Args:
        loss: gives the loss, a scalar tensor.
        parameters: as for `Hessian`.
        tolerance: relative tolerance of the residual. The eigenvalue's error is of the order of its square.
        max_products: the most Hessian-vector products, at least 2. Each keeps one vector of all parameters.
        seed: random seed of the start.

    Returns:
        Value, residual bound and products spent.

    Raises:
        ValueError: as `Hessian`; `max_products` is too small or `tolerance` is not positive.

    >>> w = torch.zeros(3, requires_grad=True)
    >>> estimate = lambda_max(lambda: (torch.tensor([1.0, 2.0, -30.0]) * w**2).sum(), [w])
    >>> round(estimate.value, 4)
    4.0
    """
    if max_products < 2:
        raise ValueError(f"max_products={max_products} must be at least 2")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be positive")
    return _lanczos(Hessian(loss, parameters), tolerance, max_products, torch.Generator().manual_seed(seed))


def normalized_sharpness(largest: float, parameters: Sequence[Tensor]) -> float:
    """`lambda_max * ||theta||^2`, over the parameters that require a gradient.

    The normalisation is ours, since arXiv 2606.32000 does not state its own. The value does not change under
    `theta -> a theta` if the loss does not (`lambda_max` is then divided by `a^2`). It is the curvature in units of relative
    change: a step of relative size `e` along the sharpest direction raises the loss by `normalized_sharpness * e^2 / 2`.

    >>> normalized_sharpness(0.5, [torch.tensor([3.0, 4.0], requires_grad=True)])
    12.5
    """
    return largest * sum(_dot(p.detach().flatten(), p.detach().flatten()) for p in trainable(parameters))


def sam_sharpness(loss: Callable[[], Tensor], parameters: Sequence[Tensor], rho: float = 0.05) -> float:
    """`L(theta + rho g / ||g||) - L(theta)`, the first-order sharpness of SAM (Foret et al. 2021, Eq. 2); 0 where `g = 0`.

    The parameters are moved for one evaluation and restored from copies to the last bit, also after an error.

    Args:
        loss: gives the loss, a scalar tensor; called twice.
        parameters: as for `Hessian`.
        rho: length of the step over all parameters.

    Raises:
        ValueError: as `Hessian`, or `rho` is not a positive finite number.

    >>> w = torch.tensor([2.0], requires_grad=True)
    >>> round(sam_sharpness(lambda: (w**2).sum(), [w], rho=0.5), 4)
    2.25
    """
    if not (isfinite(rho) and rho > 0):
        raise ValueError(f"rho={rho} must be a positive finite number")
    parameters = trainable(parameters)
    here, gradients = _loss_and_gradient(loss, parameters, twice=False)
    norm = sqrt(sum(_dot(g.flatten(), g.flatten()) for g in gradients))
    if norm == 0:
        return 0.0
    if not isfinite(norm):
        raise ValueError("the gradient of the loss is not finite: it has no direction")
    copies = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        try:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                # In float64: a fitted model's gradient may be so small that rho / norm overflows float32.
                parameter.add_((gradient.double() * (rho / norm)).to(parameter.dtype))
            return float(loss()) - here
        finally:
            for parameter, copy in zip(parameters, copies, strict=True):
                parameter.copy_(copy)


def curvature_readings(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    learning_rate: float | None,
    probes: int = 32,
    seed: int = 0,
) -> list[Reading]:
    """The group `curvature` of one measurement.

    `hessian_trace` (Hutch++) and `hessian_trace_hutchinson` share their products: the second has two thirds of `probes`
    samples. `two_over_lr` is the edge of stability of gradient descent, for comparison with `lambda_max`. Adam scales every
    parameter's step, so its edge is another.

    Args:
        loss: gives the loss, a scalar tensor. It must be deterministic.
        parameters: as for `Hessian`.
        learning_rate: the learning rate; `None` or zero (a warm-up's first) leaves `two_over_lr` out.
        probes: Hessian-vector products for the trace, at least 4.
        seed: random seed of the signs. With the same seed, measurements differ only by the model.

    Raises:
        ValueError: as `Hessian`; `probes` is too small.
        RuntimeError: something in the model has no second derivative.

    >>> w = torch.ones(3, requires_grad=True)
    >>> readings = curvature_readings(lambda: (w**2).sum(), [w], learning_rate=0.1)
    >>> {reading.metric: round(reading.value, 3) for reading in readings}
    {'hessian_trace': 6.0, 'hessian_trace_hutchinson': 6.0, 'lambda_max': 2.0, 'normalized_sharpness': 6.0,
     'sam_sharpness': 0.176, 'two_over_lr': 20.0}
    """
    _check_probes(probes, 4)
    hessian = Hessian(loss, parameters)
    generator = torch.Generator().manual_seed(seed)
    trace, hutchinson = _both_traces(hessian, probes, generator)
    largest = _lanczos(hessian, 1e-3, 64, generator)
    del hessian  # frees the graph before its parameters are moved
    weight = normalized_sharpness(1.0, parameters)
    readings = [
        _reading("hessian_trace", trace),
        _reading("hessian_trace_hutchinson", hutchinson),
        _reading("lambda_max", largest),
        _reading("normalized_sharpness", Estimate(largest.value * weight, largest.standard_error * weight, largest.samples)),
        Reading("sam_sharpness", sam_sharpness(loss, parameters)),
    ]
    if learning_rate:
        readings.append(Reading("two_over_lr", 2 / learning_rate))
    return readings


def trainable(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters that require a gradient, each once.

    Raises:
        ValueError: there is none.
    """
    found = list({id(p): p for p in parameters if p.requires_grad}.values())
    if not found:
        raise ValueError("none of the parameters requires a gradient: there is no Hessian to measure")
    return found


def _loss_and_gradient(
    loss: Callable[[], Tensor], parameters: list[Tensor], *, twice: bool
) -> tuple[float, tuple[Tensor, ...]]:
    """The loss and its gradient; with `twice`, the gradient can be differentiated again."""
    with torch.enable_grad():  # callbacks may run under no_grad
        value = loss()
        if value.numel() != 1:
            raise ValueError(f"the loss must be a scalar, but has shape {tuple(value.shape)}; reduce it to its mean")
        number = float(value.detach())
        if not isfinite(number):
            raise ValueError(f"the loss is {number}: its curvature cannot be measured")
        if not value.requires_grad:
            raise ValueError("the loss depends on none of the parameters; is it computed under no_grad or detached?")
        return number, torch.autograd.grad(value, parameters, create_graph=twice, allow_unused=True, materialize_grads=True)


def _both_traces(hessian: Hessian, probes: int, generator: torch.Generator) -> tuple[Estimate, Estimate]:
    """The trace by Hutch++ from `probes` products, and by Hutchinson from the same products.

    The signs of both stages serve Hutchinson: for `v = Q c + w`, `v^T H v = c^T Q^T H Q c + 2 c^T (H Q)^T w + w^T H w`, and
    `H Q` is there already.
    """
    rank = probes // 3
    plain, sketch = [], []
    for _ in range(rank):
        v = hessian.random_vector(generator)
        sketch.append(hessian.product(v))
        plain.append(_dot(v, sketch[-1]))
    if not all(isfinite(sample) for sample in plain):
        raise ValueError("the Hessian of the loss is not finite")
    basis = torch.linalg.qr(torch.stack(sketch, dim=1)).Q.T.contiguous()  # (rank, P), orthonormal rows
    del sketch
    images = [hessian.product(q) for q in basis]
    inside = [[_dot(p, image) for image in images] for p in basis]
    rest = []
    for _ in range(probes - 2 * rank):
        v = hessian.random_vector(generator)
        c = _remove(v, basis)  # v is now w, orthogonal to the basis
        sample = _dot(v, hessian.product(v))
        rest.append(sample)
        across = sum(c[i] * _dot(image, v) for i, image in enumerate(images))
        within = sum(c[i] * inside[i][j] * c[j] for i in range(len(c)) for j in range(len(c)))
        plain.append(sample + 2 * across + within)
    outside = _mean(rest)
    return Estimate(sum(inside[i][i] for i in range(len(inside))) + outside.value, outside.standard_error, probes), _mean(plain)


def _lanczos(hessian: Hessian, tolerance: float, max_products: int, generator: torch.Generator) -> Estimate:
    """The largest Ritz pair; `lambda_max` says how."""
    v = hessian.random_vector(generator)
    basis = [v / _norm(v)]
    diagonal: list[float] = []
    beside: list[float] = []
    eps = torch.finfo(v.dtype).eps
    while True:
        w = hessian.product(basis[-1])
        diagonal.append(_dot(w, basis[-1]))
        if not isfinite(diagonal[-1]):
            raise ValueError("the Hessian of the loss is not finite")
        _remove(w, basis)
        _remove(w, basis)  # twice is enough (Kahan): after once, rounding errors of the first pass are left
        beside.append(_norm(w))
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
        scale = float(values.abs().max())
        residual = beside[-1] * abs(float(vectors[-1, -1]))
        # The last product is for the residual. Below `eps * scale`, the subspace is invariant up to rounding.
        if residual <= max(tolerance * abs(float(values[-1])), eps * scale) or len(basis) == min(
            max_products - 1, hessian.size
        ):
            break
        basis.append(w / beside[-1])
    y = torch.zeros_like(v)
    for coefficient, direction in zip(vectors[:, -1].tolist(), basis, strict=True):
        y.add_(direction, alpha=coefficient)
    y.div_(_norm(y))
    image = hessian.product(y)
    value = _dot(y, image)
    return Estimate(value, _norm(image.sub_(y, alpha=value)), len(basis) + 1)


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    """The symmetric tridiagonal matrix of these, in float64; the last of `beside` belongs to the next row."""
    off = torch.tensor(beside[:-1], dtype=torch.float64)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)


def _remove(vector: Tensor, basis: Sequence[Tensor] | Tensor) -> list[float]:
    """Make `vector` orthogonal to the orthonormal `basis`, in place; returns the coefficients of what was removed."""
    coefficients = [_dot(direction, vector) for direction in basis]
    for coefficient, direction in zip(coefficients, basis, strict=True):
        vector.sub_(direction, alpha=coefficient)
    return coefficients


def _dot(a: Tensor, b: Tensor) -> float:
    """`a^T b` summed in float64."""
    pairs = zip(a.split(_CHUNK), b.split(_CHUNK), strict=True)
    return float(torch.stack([torch.dot(x.double(), y.double()) for x, y in pairs]).sum())


def _norm(a: Tensor) -> float:
    return sqrt(_dot(a, a))


def _mean(samples: list[float]) -> Estimate:
    """Mean and standard error of independent samples."""
    n = len(samples)
    mean = sum(samples) / n
    return Estimate(mean, hypot(*(x - mean for x in samples)) / sqrt(n * (n - 1)), n)


def _reading(metric: str, estimate: Estimate) -> Reading:
    return Reading(metric, estimate.value, standard_error=estimate.standard_error, samples=estimate.samples)


def _check_probes(probes: int, least: int) -> None:
    if probes < least:
        raise ValueError(f"probes={probes} must be at least {least}: a standard error needs more than one sample")
