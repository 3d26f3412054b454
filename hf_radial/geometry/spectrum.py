"""The spectrum of a site's activation matrix on the probe: how many directions its vectors use.

The matrix is not centred, as in the paper (arXiv 2606.32000, section 3). A rank cannot exceed the number of vectors, so every
reading holds that number. Computed in float64 from the eigenvalues of the smaller Gram matrix. Singular values below `1e-8` of
the largest are rounding errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_radial.geometry.observe import SiteView
from hf_radial.geometry.precision import double
from hf_radial.geometry.reading import Reading

LEADING = 8
ON_CPU = 1024  # small matrices are faster there


def singular_values(a: Tensor) -> Tensor:
    """Singular values of a matrix of shape `(N, d)`, largest first, `min(N, d)` of them, float64 (on the CPU if small)."""
    a = double(a)
    gram = a @ a.T if a.shape[0] < a.shape[1] else a.T @ a
    if len(gram) <= ON_CPU:
        gram = gram.cpu()
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()


def stable_rank(sigma: Tensor) -> Tensor:
    """`||A||_F^2 / ||A||_2^2` from the singular values; NaN for the zero matrix (paper, section 3).

    >>> stable_rank(torch.tensor([2.0, 2.0, 1.0]))
    tensor(2.2500)
    """
    return sigma.square().sum() / sigma.max().square()


def effective_rank(sigma: Tensor) -> Tensor:
    """`exp(-sum p_i log p_i)`, `p_i = sigma_i / sum sigma`; NaN for the zero matrix (Roy and Vetterli 2007; paper, section 3).

    >>> effective_rank(torch.tensor([3.0, 3.0, 0.0]))
    tensor(2.)
    """
    return torch.special.entr(sigma / sigma.sum()).sum().exp()


def spectrum_readings(view: SiteView) -> list[Reading]:
    """The group `spectrum` of one site's finite vectors; empty if there is none."""
    h = view.vectors[view.finite]
    if not len(h):
        return []
    sigma = singular_values(h)
    site, samples = view.site.name, len(h)
    return [
        Reading("effective_rank", effective_rank(sigma).item(), site, samples=samples),
        Reading("stable_rank", stable_rank(sigma).item(), site, samples=samples),
        Reading("sigma_max", sigma[0].item(), site, samples=samples),
        *(Reading("singular_value", s, site, index=i, samples=samples) for i, s in enumerate(sigma[:LEADING].tolist())),
    ]
