"""The mathematics against float64 written out by hand."""

from __future__ import annotations

import pytest
import torch

from hf_radial.penalty import functional
from hf_radial.penalty.functional import decompose, radial_penalty, radius, split_gradient, with_radius

pytestmark = pytest.mark.quick


def random_vectors(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_hand(h, target, dim, side="both"):
    """(||h|| - R)^2 / d, vector by vector, in float64."""
    moved = h.detach().double().movedim(dim, -1)
    d = moved.shape[-1]
    values = []
    for vector in moved.reshape(-1, d):
        excess = sum(float(x) ** 2 for x in vector) ** 0.5 - (d**0.5 if target is None else target)
        acts = {"both": True, "above": excess > 0, "below": excess < 0}[side]
        values.append(excess**2 / d if acts else 0.0)
    return torch.tensor(values, dtype=torch.float64).reshape(moved.shape[:-1])


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4), (2, 3, 2, 6)])
@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("target", [None, 1.5])
@pytest.mark.parametrize("side", ["both", "above", "below"])
def test_every_shape_axis_and_target_equals_the_definition(shape, dim, target, side):
    h = random_vectors(shape)
    expected = by_hand(h, target, dim, side)
    torch.testing.assert_close(radial_penalty(h, target, dim=dim, side=side, reduction="none"), expected.float())
    torch.testing.assert_close(radial_penalty(h, target, dim=dim, side=side), expected.mean().float())
    torch.testing.assert_close(radial_penalty(h, target, dim=dim, side=side, reduction="sum"), expected.sum().float())


def test_the_mask_leaves_padding_out_of_value_mean_and_gradient():
    h = random_vectors((4, 3, 8)).requires_grad_()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]])
    value = radial_penalty(h, mask=mask)
    torch.testing.assert_close(value.double(), by_hand(h, None, -1)[mask.bool()].mean())
    value.backward()
    assert (h.grad[mask == 0] == 0).all()
    assert (h.grad[mask == 1].norm(dim=-1) > 0).all()


def test_a_mask_that_counts_nothing_gives_zero():
    assert radial_penalty(random_vectors((2, 3)), mask=torch.zeros(2, dtype=torch.bool)) == 0


def test_the_gradient_is_the_papers_and_purely_radial():
    h = random_vectors((7, 16), torch.float64).requires_grad_()
    radial_penalty(h, reduction="sum").backward()
    r = h.detach().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(h.grad, 2 / 16 * (r - 4.0) * h.detach() / r)
    _, g_tan = split_gradient(h.grad, h.detach())
    assert g_tan.norm() < 1e-12


def test_autograd_agrees_with_finite_differences_twice():
    h = random_vectors((3, 4), torch.float64).requires_grad_()
    mask = torch.tensor([1, 1, 0])
    assert torch.autograd.gradcheck(lambda x: radial_penalty(x, 1.3, mask), h)
    assert torch.autograd.gradgradcheck(lambda x: radial_penalty(x, 1.3), h)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_zero_vectors_have_gradient_zero(dtype):
    h = torch.zeros(3, 5, dtype=dtype, requires_grad=True)
    radial_penalty(h).backward()
    assert h.grad.dtype == dtype
    assert (h.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype):
    """4096 squares of about one, kept in bfloat16, would stop growing at 256; squares of 300 overflow float16."""
    h = (random_vectors((2, 4096)) + 1).to(dtype)
    big = torch.full((2, 4096), 300.0, dtype=dtype)
    for x in (h, big):
        value = radial_penalty(x)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), by_hand(x, None, -1).mean(), rtol=1e-5, atol=0)


def test_decompose_gives_back_the_vector():
    h = random_vectors((2, 3, 6))
    h[0, 0] = 0
    for dim in (-1, 0):
        r, h_hat = decompose(h, dim)
        torch.testing.assert_close(r.unsqueeze(dim) * h_hat, h)
        lengths = radius(h_hat, dim)
        torch.testing.assert_close(lengths, torch.where(r > 0, 1.0, 0.0))


def test_split_gradient_adds_up_and_is_orthogonal():
    g, h = random_vectors((4, 5, 8)), random_vectors((4, 5, 8), seed=1)
    g_rad, g_tan = split_gradient(g, h)
    torch.testing.assert_close(g_rad + g_tan, g)
    torch.testing.assert_close((g_tan * h).sum(-1), torch.zeros(4, 5), atol=1e-5, rtol=0)
    projector = torch.einsum("...i,...j->...ij", h, h) / h.square().sum(-1)[..., None, None]
    torch.testing.assert_close(g_rad, torch.einsum("...ij,...j->...i", projector, g))


@pytest.mark.parametrize("used", ["both", "vectors", "radius"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("few", [0, 100])
def test_the_one_pass_backward_is_that_of_autograd(few, dtype, tolerance, dim, used, monkeypatch):
    """And rounds once: in bfloat16 it is as near to float64 as a bfloat16 number can be."""
    monkeypatch.setattr(functional, "FEW", few)

    def gradient(h, function):
        h = h.clone().requires_grad_()
        same, r = function(h * 1)  # within a graph
        a, b = (random_vectors(t.shape, torch.float64, seed=seed) for seed, t in ((1, h), (2, r)))
        parts = {"vectors": (same.double() * a.to(dtype)).sum(), "radius": (r.double() * b.float()).sum()}
        (sum(parts.values()) if used == "both" else parts[used]).backward()
        return h.grad

    h = random_vectors((3, 5, 4), dtype)
    h[1] = 0.0  # vectors without a direction
    expected = gradient(h.double(), lambda h: (h, radius(h, dim)))
    found = gradient(h, lambda h: with_radius(h, dim))
    assert found.dtype == dtype
    # Autograd rounds the radius' part before it adds it to what may nearly cancel it.
    absolute = tolerance * (1 if few else 1e-2) + 1e-7 * (dtype != torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=absolute)


def test_the_one_pass_backward_can_be_differentiated_and_transformed():
    h = random_vectors((3, 4), torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda h: with_radius(h), (h,)) and torch.autograd.gradcheck(with_radius, (h,))
    per_row = torch.func.vmap(torch.func.grad(lambda row: (with_radius(row)[1] - 2).square()))(h.detach())
    torch.testing.assert_close(per_row, 2 * (radius(h) - 2).unsqueeze(-1) * decompose(h)[1])


def test_the_vectors_go_on_uncopied():
    h = random_vectors((3, 4)).requires_grad_() * 1
    assert with_radius(h)[0].data_ptr() == h.data_ptr()


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda h: radial_penalty(h, radius=-0.5), ValueError, "radius=-0.5"),
        (lambda h: radial_penalty(h, radius=float("nan")), ValueError, "radius=nan"),
        (lambda h: radial_penalty(h, mask=torch.ones(3)), ValueError, "mask"),
        (lambda h: radial_penalty(h, side="inside"), ValueError, "side='inside'"),
        (lambda h: radial_penalty(h, reduction="median"), ValueError, "reduction='median'"),
        (lambda h: radial_penalty(h.long()), TypeError, "floating point"),
        (lambda h: radius(h.long()), TypeError, "floating point"),
        (lambda h: with_radius(h.long()), TypeError, "floating point"),
        (lambda h: split_gradient(h[:1], h), ValueError, "shape"),
    ],
)
def test_bad_input_is_named(call, error, named):
    with pytest.raises(error, match=named):
        call(torch.ones(2, 4))
