"""Radial energy, radii and their speeds, for gradients with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_radial.geometry.observe import SiteView
from hf_radial.geometry.radial import radial_energy, radial_readings, turned
from hf_radial.sites.site import Site

pytestmark = pytest.mark.quick


def view(h, gradient=None, pull=None, target=4.0):
    zero = torch.zeros_like(h)
    return SiteView(
        Site("here", h.shape[1], "Linear", 1), target, h, zero if gradient is None else gradient, zero if pull is None else pull
    )


def values(readings):
    return {reading.metric: reading.value for reading in readings}


@pytest.mark.parametrize("d", [3, 64, 512])
def test_isotropic_gradients_have_energy_one_within_three_standard_errors(d):
    generator = torch.Generator().manual_seed(d)
    h, g = (torch.randn(4000, d, generator=generator) for _ in range(2))
    energies = torch.stack([radial_energy(g[i : i + 40], h[i : i + 40])[0] for i in range(0, 4000, 40)])
    standard_error = energies.std() / len(energies) ** 0.5
    assert abs(energies.mean() - 1) < 3 * standard_error
    assert standard_error < 0.05


def test_radial_gradients_have_energy_d_and_tangential_ones_none():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(50, 32, generator=generator)
    scale = torch.rand(50, 1, generator=generator) - 0.5
    assert radial_energy(scale * h, h)[0].item() == pytest.approx(32, rel=1e-6)
    g = torch.randn(50, 32, generator=generator)
    tangential = g.double() - (g.double() * h.double()).sum(1, keepdim=True) / h.double().square().sum(1, keepdim=True) * h
    assert radial_energy(tangential, h.double())[0].item() < 1e-12


def test_energy_knows_no_unit_and_survives_gradients_whose_squares_float32_cannot_hold():
    generator = torch.Generator().manual_seed(0)
    h, g = (torch.randn(20, 8, generator=generator) for _ in range(2))
    energy = radial_energy(g, h)[0]
    torch.testing.assert_close(radial_energy(1e-30 * g, h)[0], energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(radial_energy(g, 1e4 * h)[0], energy, rtol=1e-6, atol=0)
    assert radial_energy(torch.zeros_like(g), h)[0].isnan()


def test_energy_is_a_ratio_of_means_and_not_a_mean_of_ratios():
    h = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    g = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    energy, numerator, denominator = radial_energy(g, h)
    assert (energy.item(), numerator.item(), denominator.item()) == pytest.approx((2 * 9 / 10, 9, 5))


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.5, np.pi / 2, 3.0, np.pi])
def test_angles_are_exact_near_zero_and_near_pi(angle):
    before = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    h = 5 * torch.tensor([[np.cos(angle), np.sin(angle), 0.0]], dtype=torch.float64)
    assert turned(h, before).item() == pytest.approx(angle, rel=1e-9)


def test_readings_are_what_numpy_says():
    generator = torch.Generator().manual_seed(1)
    h, before, g = (torch.randn(200, 16, generator=generator) for _ in range(3))
    found = values(radial_readings(view(h, g, 2 * h), before[:150]))
    r = np.linalg.norm(h.double().numpy(), axis=1)
    assert found["radius_mean"] == pytest.approx(r.mean())
    assert found["radius_std"] == pytest.approx(r.std())
    for q in (5, 25, 50, 75, 95):
        assert found[f"radius_q{q:02d}"] == pytest.approx(np.quantile(r, q / 100))
    assert found["radius_minus_target"] == pytest.approx(r.mean() - 4)
    a, b = h[:150].double().numpy(), before[:150].double().numpy()
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found["angular_speed"] == pytest.approx(np.arccos(cosine).mean())
    assert found["radial_speed"] == pytest.approx(np.abs(r[:150] - np.linalg.norm(b, axis=1)).mean())
    assert found["radial_energy"] != found["radial_energy_total"]
    assert found["radial_energy_total"] == pytest.approx(radial_energy(g + 2 * h, h)[0].item())
    assert found["nonfinite"] == 0


def test_vectors_that_are_not_finite_are_counted_and_left_out():
    h = torch.tensor([[3.0, 4.0], [float("nan"), 1.0], [float("inf"), 0.0], [0.0, 1.0]])
    found = radial_readings(view(h, torch.ones_like(h)))
    assert values(found)["nonfinite"] == 0.5
    assert values(found)["radius_mean"] == 3
    assert {reading.samples for reading in found if reading.metric != "nonfinite"} == {2}
    assert values(radial_readings(view(h[1:3]))) == {"nonfinite": 1.0}
