r"""Fourier structure of a model of modular arithmetic, read off its outputs on the whole table of pairs (a, b).

A network that has generalised on (a + b) mod p computes with few frequencies `w_k = 2 pi k / p`: its embedding holds
cos(w_k a) and sin(w_k a), each neuron has one frequency, and its logits are sums of cos(w_k (a + b - c)) (Nanda et al.,
"Progress measures for grokking via mechanistic interpretability", arXiv 2301.05217; for any group, with characters in place
of cosines, Chughtai et al., arXiv 2302.03025; in closed form, one frequency a neuron, Gromov, arXiv 2301.02679).

- The *power* at a frequency is the sum of squares of the coefficients in an orthonormal Fourier basis, so that powers add up
  to a sum of squares (Parseval). The constant is always left out. Frequencies are k = 1 ... p // 2; an even p has p / 2,
  whose sine is zero.
- Of an embedding `(p, d)`: DFT over the residues, summed over the channels.
- Of a neuron over the table: the components (k, 0), (0, k), (k, k) and (k, -k) of its 2D DFT and their conjugates, that is,
  the span of 1, cos(w_k a), sin(w_k a) times 1, cos(w_k b), sin(w_k b), without 1 times 1 (Nanda et al., section 4). Other
  components, such as (k, 2k), belong to no frequency: shares of a neuron add up to at most one.
- Of the logits, each row centred over the answers c, which softmax does not see: cos(w_k (a + b - c)) alone for
  `fourier_power`, and cos(w_k (a + b)) and sin(w_k (a + b)), times any function of c, for everything else.

`fourier_r2` and `fourier_largest` correspond to the Fourier coherence `R^2` and the largest Fourier magnitude of arXiv
2606.32000, Table 1. Its code is not published. `fourier_readings` defines ours, so values may differ from that table.

Not in here: running the model over its table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_radial.geometry.reading import Reading

OPERATIONS = {"add": 1, "sub": -1}  # the sign of b
EMBEDDING, LOGITS = "embedding", "logits"  # names of sites that are not modules

Array = Tensor | np.ndarray


def fourier_readings(
    logits: Array,
    answers: Array,
    *,
    embedding: Array | None = None,
    sites: Mapping[str, Array] | None = None,
    operation: str = "add",
    train: Array | None = None,
    best: int = 5,
) -> list[Reading]:
    r"""All readings of the group `fourier`, computed in float64 on the CPU.

    | metric | of the embedding | of a site | of the logits |
    |---|---|---|---|
    | `fourier_power`, index k | share of k | mean over neurons of their shares of k | share of cos(w_k (a + b - c)) |
    | `fourier_r2` | sum of the `best` greatest | the same | share that the key frequencies explain, by least squares |
    | `fourier_largest` | greatest norm at one k | the same, of all neurons | the same, of cos(w_k (a + b - c)) |

    Shares are of the power without the constant (for logits: without each class's mean over the table). A constant signal has
    shares of zero. A norm is the square root of a power, in units of the values times the root of how many there are:
    amplitude A in each of d channels of an embedding is `A sqrt(p d / 2)`, in n neurons `A p sqrt(n / 2)`, in logits
    `A sqrt(p^3 / 2)`. There are p // 2 frequencies. With `best` that large, an embedding's `fourier_r2` is always one.

    For a neuron: `neuron_frequency`, the frequency of its greatest power, and `neuron_selectivity`, the share of that power. A
    neuron that is constant up to rounding of its dtype is dead: both are 0, and means leave it out. For a site:
    `neuron_selectivity_mean`, with the number of live neurons as `samples`; 0 if all are dead.

    The key frequencies are the `best` of the greatest power in cos(w_k (a + b)) and sin(w_k (a + b)) times functions of c. As
    in Nanda et al., section 5.1, and their code: `restricted_loss` is the mean cross-entropy over the whole table if the logits
    keep only these frequencies and each class's mean. `excluded_loss` is the mean cross-entropy over the training rows if the
    logits lose these frequencies. `full_loss` is the mean cross-entropy of the unchanged logits over the table.

    Args:
        logits: `(p, p, p)`: of row a, column b, answer c.
        answers: `(p, p)` integers: the right c. They guard against a table in another order.
        embedding: `(p, d)`: of residue a. Left out if `None`.
        sites: for each module name its units' values over the table, `(p, p, units)`.
        operation: "add" or "sub" (then a - b stands for a + b throughout).
        train: `(p, p)`, true at the training rows; `None` for all rows.
        best: number of frequencies that count as the structure.

    Raises:
        TypeError: `logits`, `embedding` or a site's values are not floating point.
        ValueError: a shape or `answers` does not fit, `best` is below 1, `train` has no row, a site has a reserved name, or
            `operation` is another. The product of non-zero residues modulo a prime is the sum of discrete logarithms modulo
            p - 1: put table, embedding and answers in the order of logarithms, and it is "add".

    >>> a = torch.arange(7)
    >>> t = a[:, None, None] + a[:, None] - a
    >>> readings = fourier_readings(torch.cos(2 * torch.pi / 7 * 3 * t), (a[:, None] + a) % 7, best=1)
    >>> {r.index: round(r.value, 6) for r in readings if r.metric == "fourier_power"}
    {1: 0.0, 2: 0.0, 3: 1.0}
    """
    if operation not in OPERATIONS:
        raise ValueError(
            f"operation={operation!r} is not supported; choose one of {', '.join(OPERATIONS)}. Products of non-zero residues "
            "modulo a prime p are sums of discrete logarithms modulo p - 1: put logits, embedding, sites and answers in the "
            "order of the logarithms, then give operation='add'. Other operations are not one sum."
        )
    if not isinstance(best, int) or best < 1:
        raise ValueError(f"best={best!r} must be an integer of at least 1: how many frequencies count")
    logits, p = _floating("logits", logits), len(logits)
    if p < 2 or logits.shape != (p, p, p):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and must be (p, p, p): row a, column b, answer. Of a model with more "
            "classes than residues, select those of the residues 0 ... p - 1."
        )
    sign = OPERATIONS[operation]
    correct, given = _combine(p, sign), _array(answers)
    if given.shape != (p, p) or not torch.equal(given, correct.to(given.dtype)):
        raise ValueError(
            f"answers must be (a {'+' if sign > 0 else '-'} b) mod {p} at row a, column b, for operation={operation!r}; check "
            "the operation, and that the table is in the order of the residues."
        )
    mask = torch.ones(p, p, dtype=torch.bool) if train is None else _array(train).bool()
    if mask.shape != (p, p) or not mask.any():
        raise ValueError(f"train must be a mask of shape {(p, p)} with a training row, got shape {tuple(mask.shape)}")
    readings = []
    if embedding is not None:
        table = _floating("embedding", embedding)
        if table.dim() != 2 or len(table) != p:
            raise ValueError(f"embedding has shape {tuple(table.shape)} and must be ({p}, d): one row a residue")
        power = wave_power(table).sum(1)
        shares = _share(power, power.sum())
        readings += _spectrum(EMBEDDING, shares, power, r2=_greatest(shares, best))
    for site, values in (sites or {}).items():
        if site in (EMBEDDING, LOGITS):
            raise ValueError(f"sites must not name a module {site!r}, which stands for the model's own {site}")
        readings += _site_readings(site, values, p, best)
    return readings + _logit_readings(logits, correct, sign, mask, best)


def wave_power(signal: Tensor) -> Tensor:
    """Power of each channel at each frequency: the sums of squares of its orthonormal DFT over the residues.

    Args:
        signal: `(p, channels)`, real.

    Returns:
        `(p // 2, channels)` float64: frequencies 1, 2, ...; they add up to the channel's sum of squares about its mean.

    >>> wave_power(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    tensor([[0.],
            [4.]], dtype=torch.float64)
    """
    signal = signal.double()
    # A constant must give exact zeros: shares of rounding errors would mean nothing.
    power = 2 * torch.fft.rfft(signal - signal[0], dim=0, norm="ortho")[1:].abs().square()
    if len(signal) % 2 == 0:
        power[-1] /= 2  # p / 2 is its own conjugate
    return power


def neuron_power(values: Tensor) -> tuple[Tensor, Tensor]:
    """Power of each neuron at each frequency, over the table of pairs.

    Each of the components (k, 0), (0, k), (k, k), (k, -k) is a wave in one of a, b, a + b, a - b: the sums along the other
    direction hold it, and no 2D DFT is needed.

    Args:
        values: `(p, p, units)`, floating point.

    Returns:
        `(p // 2, units)` float64, and `(units,)` float64, the sums of squares about the mean. Both are zero for a neuron that
        does not vary by more than the rounding of its dtype.
    """
    p = len(values)
    origin = values[0, 0].double()  # Subtracted before all sums, so that a constant gives exact zeros.
    by_a, by_b, by_sum, by_difference = torch.zeros(4, p, values.shape[2], dtype=torch.float64)
    squares = torch.zeros_like(origin)
    for a, column in _columns(values):
        column -= origin
        by_a[a] = column.sum(0)
        by_b += column
        by_sum += _along(column, a, 1)
        by_difference += _along(column, a, -1)
        squares += column.square().sum(0)
    waves = [wave_power(sums) / p for sums in (by_a, by_b, by_sum, by_difference)]
    if p % 2 == 0:
        waves[-1][-1] = 0  # at p / 2, a + b and a - b are the same wave
    total = squares - by_b.sum(0).square() / p**2
    dead = total <= (p * torch.finfo(values.dtype).eps * origin).square()
    return torch.stack(waves).sum(0).masked_fill(dead, 0), total.masked_fill(dead, 0)


def _site_readings(site: str, values: Array, p: int, best: int) -> list[Reading]:
    values = _floating(f"sites[{site!r}]", values)
    if values.dim() != 3 or values.shape[:2] != (p, p):
        raise ValueError(f"sites[{site!r}] has shape {tuple(values.shape)} and must be ({p}, {p}, units): row a, column b")
    power, total = neuron_power(values)
    shares = _share(power, total)
    selectivity, frequency = shares.max(0)
    living = total != 0  # also true for NaN, which a mean must not hide
    count = int(living.sum())
    frequency = (frequency + 1).where(living & selectivity.isfinite(), 0)
    spectrum = shares.sum(1) / max(count, 1)
    readings = _spectrum(site, spectrum, power.sum(1), r2=_greatest(spectrum, best), samples=count)
    for neuron, (k, share) in enumerate(zip(frequency.tolist(), selectivity.tolist(), strict=True)):
        readings.append(Reading("neuron_frequency", k, site, neuron))
        readings.append(Reading("neuron_selectivity", share, site, neuron))
    mean = float(selectivity.sum()) / max(count, 1)
    return [*readings, Reading("neuron_selectivity_mean", mean, site, samples=count)]


def _logit_readings(logits: Tensor, answers: Tensor, sign: int, mask: Tensor, best: int) -> list[Reading]:
    p = len(logits)
    waves, total = _answer_waves(logits, sign)
    # The sums over s = a + b of each s - c hold cos(w_k (s - c)): twice the square of their orthonormal DFT's real part.
    residue = torch.arange(p)
    by_error = waves[residue, (residue - residue[:, None]) % p].sum(1)
    direction = 2 * torch.fft.rfft(by_error, norm="ortho")[1:].real.square()
    if p % 2 == 0:
        direction[-1] /= 2
    power = p * wave_power(waves).sum(1)
    key = power.topk(min(best, p // 2)).indices + 1
    readings = _spectrum(LOGITS, _share(direction, total), direction, r2=_share(power[key - 1].sum(), total))

    kept = torch.zeros(p // 2 + 1, 1, dtype=torch.bool)
    kept[key] = True
    coefficients = torch.fft.rfft(waves, dim=0)
    key_waves = torch.fft.irfft(coefficients * kept, n=p, dim=0)  # (p, p): of s, c
    # Every s is the answer of p rows, and the restricted logits are the same for all of them.
    restricted = F.cross_entropy(waves.mean(0) + key_waves, residue)
    full, excluded = torch.empty(2, p, p, dtype=torch.float64)
    for a, column in _columns(logits):
        full[a] = F.cross_entropy(column, answers[a], reduction="none")
        excluded[a] = F.cross_entropy(column - key_waves[answers[a]], answers[a], reduction="none")
    return [
        *readings,
        Reading("restricted_loss", float(restricted), samples=p * p),
        Reading("excluded_loss", float(excluded[mask].mean()), samples=int(mask.sum())),
        Reading("full_loss", float(full.mean()), samples=p * p),
    ]


def _answer_waves(logits: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Mean of the centred logits over the pairs of each sum, `(p, p)` of s and c; their sum of squares about classes' means."""
    p = len(logits)
    origin = logits[0, 0].double()  # as in `neuron_power`
    sums = torch.zeros(p, p, dtype=torch.float64)
    squares = torch.zeros(p, dtype=torch.float64)
    for a, column in _columns(logits):
        column -= origin
        column -= column.mean(1, keepdim=True)
        sums += _along(column, a, sign)
        squares += column.square().sum(0)
    total = (squares - sums.sum(0).square() / p**2).sum()
    return sums / p + origin - origin.mean(), total.clamp(min=0)


def _columns(values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each a with its values over b in float64, a copy: the whole table in float64 may not fit."""
    for a, column in enumerate(values):
        yield a, column.to(torch.float64, copy=True)


def _along(column: Tensor, a: int, sign: int) -> Tensor:
    """Values over b, `(p, ...)`, in the order of (a + b) mod p, or of (a - b) mod p."""
    return column.roll(a, 0) if sign > 0 else column.flip(0).roll(a + 1, 0)


def _combine(p: int, sign: int) -> Tensor:
    residue = torch.arange(p)
    return (residue[:, None] + sign * residue) % p


def _spectrum(site: str, shares: Tensor, power: Tensor, r2: Tensor, samples: int | None = None) -> list[Reading]:
    """`fourier_power` of each frequency, `fourier_r2` and `fourier_largest`, from `(p // 2,)` shares and powers."""
    readings = [Reading("fourier_power", share, site, k, samples=samples) for k, share in enumerate(shares.tolist(), start=1)]
    largest = float(power.max().sqrt())
    return [*readings, Reading("fourier_r2", float(r2), site, samples=samples), Reading("fourier_largest", largest, site)]


def _greatest(shares: Tensor, best: int) -> Tensor:
    return shares.topk(min(best, len(shares))).values.sum()


def _share(power: Tensor, total: Tensor) -> Tensor:
    """`power / total`, zero for a constant."""
    return (power / total).where(total != 0, torch.zeros_like(power))


def _array(values: Array) -> Tensor:
    return torch.as_tensor(values).detach().cpu()


def _floating(name: str, values: Array) -> Tensor:
    tensor = _array(values)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} has dtype {tensor.dtype} and must be floating point")
    return tensor
