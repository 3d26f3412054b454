"""Similarity of representations: 1 for a rotation, 0 for unrelated representations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_radial.geometry.drift import cka, sketch, subspace_overlap

pytestmark = pytest.mark.quick


def vectors(seed, n=128, d=300):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d, seed=9):
    return torch.linalg.qr(vectors(seed, d, d))[0]


def debiased_cka(x, y):
    """By the formula of Song et al. 2012 (Eq. 5), with loops over nothing left out."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)

    def hsic(a, b):
        one = np.ones(n)
        return (
            np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ a @ b @ one)
        ) / (n * (n - 3))

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_cka_is_the_debiased_one():
    x, y = vectors(0, 40, 7), vectors(1, 40, 7)
    y = y + 0.7 * x
    assert cka(sketch(x), sketch(y)) == pytest.approx(debiased_cka(x.numpy().copy(), y.numpy().copy()), abs=1e-6)


def test_cka_of_a_rotation_a_scale_and_a_shift_is_one():
    x = vectors(0)
    other = 3 * x @ rotation(300) + 5
    assert cka(sketch(x), sketch(other)) == pytest.approx(1, abs=1e-6)
    assert subspace_overlap(sketch(x), sketch(other)) < 0.2  # other directions of the space


def test_cka_of_unrelated_vectors_is_about_zero_also_where_there_are_more_channels_than_vectors():
    found = [cka(sketch(vectors(2 * s)), sketch(vectors(2 * s + 1))) for s in range(20)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20**0.5 + 1e-3
    assert max(np.abs(found)) < 0.1


def test_overlap_of_a_subspace_with_itself_is_one_whatever_its_basis():
    mixed = vectors(0, 100, 8) @ vectors(1, 8, 60)
    again = vectors(2, 100, 8) @ vectors(1, 8, 60)
    assert subspace_overlap(sketch(mixed), sketch(again)) == pytest.approx(1, abs=1e-5)
    random = np.mean([subspace_overlap(sketch(vectors(s)), sketch(vectors(s + 50))) for s in range(20)])
    assert random == pytest.approx(8 / 300, rel=0.2)


def test_what_cannot_be_compared_has_no_sketch():
    assert sketch(vectors(0, 3)) is None
    assert sketch(torch.full((9, 4), torch.nan)) is None
    assert sketch(torch.ones(9, 4)) is None
