"""Ranks and singular values are those of NumPy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_radial import view

from hf_radial.geometry.spectrum import effective_rank, singular_values, spectrum_readings, stable_rank

pytestmark = pytest.mark.quick


def matrix(n, d, decay, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * decay ** torch.arange(d)


@pytest.mark.parametrize("shape", [(400, 30), (30, 400), (64, 64), (1, 9)])
@pytest.mark.parametrize("decay", [1.0, 0.8, 0.5])
def test_ranks_are_those_of_an_svd(shape, decay):
    a = matrix(*shape, decay)
    sigma = np.linalg.svd(a.double().numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    p = p[p > 0]
    found = singular_values(a)
    assert len(found) == min(shape)
    np.testing.assert_allclose(found[:8], sigma[:8], atol=2e-8 * sigma[0])
    assert effective_rank(found).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert stable_rank(found).item() == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-9)


def test_a_rank_is_at_most_the_sample_which_the_reading_names():
    found = {reading.metric: reading for reading in spectrum_readings(view(matrix(20, 500, 1.0)))}
    assert found["effective_rank"].value <= 20
    assert found["effective_rank"].samples == found["stable_rank"].samples == found["sigma_max"].samples == 20


def test_known_ranks():
    assert effective_rank(singular_values(torch.eye(10))).item() == pytest.approx(10)
    one = spectrum_readings(view(torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 5))))
    assert {r.metric: r.value for r in one if r.index is None}["effective_rank"] == pytest.approx(1, abs=1e-5)
    assert [r.index for r in one if r.metric == "singular_value"] == [0, 1, 2, 3]
    assert spectrum_readings(view(torch.full((3, 4), torch.nan))) == []
