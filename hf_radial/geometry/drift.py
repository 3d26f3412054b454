"""How far a site's representation has moved from what it was: linear CKA, and the overlap of its leading subspaces.

CKA (Kornblith et al. 2019) compares the similarities between the probe's vectors, so it does not see rotations of the space.
The overlap of the leading principal directions sees them. CKA is debiased (Song et al. 2012): with fewer vectors than channels,
plain CKA gives 0.8 for two random representations. A `Sketch` holds what is compared, and is small enough to keep many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_radial.geometry.precision import double
from hf_radial.geometry.reading import Reading

VECTORS = 128
DIRECTIONS = 8


@dataclass
class Sketch:
    """A summary of a representation, for comparisons.

    Attributes:
        similarity: U-centred linear Gram matrix of the first `n` vectors, of Frobenius norm 1, shape `(n, n)`, float32.
        directions: the leading principal directions, shape `(d, k)`, orthonormal, float32.
    """

    similarity: Tensor
    directions: Tensor


def sketch(h: Tensor) -> Sketch | None:
    """The sketch of vectors of shape `(N, d)`; `None` for fewer than four, for NaN or infinity, or if all are equal."""
    h = double(h[:VECTORS].cpu())  # small matrices are decomposed faster there
    n = len(h)
    if n < 4 or not h.isfinite().all():
        return None
    h = h - h.mean(0)
    gram = h @ h.T
    gram.fill_diagonal_(0)
    rows = gram.sum(1, keepdim=True)
    gram = gram - rows / (n - 2) - rows.T / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
    gram.fill_diagonal_(0)
    norm = gram.norm()
    if not norm > 0:
        return None
    _, _, directions = torch.linalg.svd(h, full_matrices=False)
    k = min(DIRECTIONS, n - 1, h.shape[1])
    return Sketch((gram / norm).float().cpu(), directions[:k].T.float().contiguous().cpu())


def cka(a: Sketch, b: Sketch) -> float:
    """Debiased linear CKA of two sketches of the same vectors.

    1 if one is the other rotated and scaled. About 0, with either sign, if they have nothing in common.
    """
    return float((double(a.similarity) * double(b.similarity)).sum())


def subspace_overlap(a: Sketch, b: Sketch) -> float:
    """`||U^T V||_F^2 / k` of the leading `k` principal directions: 1 for the same subspace, about `k / d` for random ones."""
    k = min(a.directions.shape[1], b.directions.shape[1])
    return float((double(a.directions[:, :k]).T @ double(b.directions[:, :k])).square().sum() / k)


def drift_readings(site: str, now: Sketch, then: Sketch, since: str) -> list[Reading]:
    """How similar a site is to itself at the `since` (`first`, `previous` or `last`) measurement."""
    samples = len(now.similarity)
    return [
        Reading(f"cka_{since}", cka(now, then), site, samples=samples),
        Reading(f"overlap_{since}", subspace_overlap(now, then), site, samples=samples),
    ]
