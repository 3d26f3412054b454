"""Proposition 1 against autograd and eigenvectors written out, in cases where it holds and where it does not."""

from __future__ import annotations

import math

import pytest
import torch
from reference import stack, tiny_gpt2, token_rows
from torch import nn

from hf_radial.geometry.proposition import _penalty_gradient, proposition_1, proposition_readings, weight_of
from hf_radial.penalty.functional import radial_penalty

pytestmark = pytest.mark.quick

N, D_IN, D = 50, 7, 5


def layer(scale=1.0, bias=0.0, seed=0, n=N, d_in=D_IN):
    """Anisotropic inputs, a weight and the vectors they make."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_in, generator=generator, dtype=torch.float64) * torch.linspace(2, 0.2, d_in, dtype=torch.float64)
    weight = torch.randn(D, d_in, generator=generator, dtype=torch.float64) * scale
    return x, x @ weight.T + bias, weight


def autograd_gradient(x, weight, bias, radius, side):
    weight = weight.clone().requires_grad_()
    radial_penalty(x @ weight.T + bias, radius, side=side).backward()
    return weight.grad


@pytest.mark.parametrize("side", ["both", "above", "below"])
@pytest.mark.parametrize("radius", [0.5, 3.0])
@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_the_gradient_is_that_of_the_penalty_by_autograd(side, radius, bias):
    x, h, weight = layer(bias=bias)
    gradient, _ = _penalty_gradient(x, h, radius, side)
    torch.testing.assert_close(gradient, autograd_gradient(x, weight, bias, radius, side))


def test_every_number_is_its_definition():
    x, h, weight = layer(scale=2.0, bias=0.3)
    found = proposition_1(x.float(), h.float(), weight.float())
    gradient = autograd_gradient(x, weight, 0.3, D**0.5, "both")
    sigma = sum(torch.outer(row, row) for row in x) / N
    predicted = 2 / D * weight @ sigma
    values, vectors = torch.linalg.eigh(sigma)

    def cosine(a, b):
        return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))

    assert found.cosine == pytest.approx(cosine(gradient, predicted), abs=1e-5)
    assert found.weight_decay_cosine == pytest.approx(cosine(gradient, weight), abs=1e-5)
    assert found.shrink == pytest.approx(float((1 - D**0.5 / h.norm(dim=1)).mean()), abs=1e-5)
    assert found.eigenvalues == pytest.approx(values.flip(0).tolist(), rel=1e-5)
    for k, ratio in enumerate(found.ratios):
        u = vectors[:, -1 - k]
        pull = predicted @ u
        assert ratio == pytest.approx(float((gradient @ u) @ pull / (pull @ pull)), abs=1e-4)
    assert found.samples == N


def test_far_outside_the_sphere_the_proposition_holds():
    found = proposition_1(*layer(scale=1e4))
    assert found.ratios == pytest.approx([1.0] * D_IN, abs=5e-3)
    assert found.cosine == pytest.approx(1.0, abs=1e-5)
    assert found.shrink == pytest.approx(1.0, abs=1e-3)
    assert found.weight_decay_cosine < 0.95  # its pull is anisotropic, weight decay's is not


def test_it_holds_better_the_farther_outside():
    errors = [max(abs(ratio - 1) for ratio in proposition_1(*layer(scale)).ratios) for scale in (1e2, 1e3, 1e4)]
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.1)  # of first order in R/r
    assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.1)


def test_below_the_sphere_the_pull_is_the_other_way():
    below = proposition_1(*layer(scale=1e-2))
    assert below.cosine < 0 and below.shrink < 0 and all(ratio < 0 for ratio in below.ratios)


def test_one_sided_there_is_no_pull_below_the_sphere():
    x, h, weight = layer(scale=1e-2)
    found = proposition_1(x, h, weight, side="above")
    assert math.isnan(found.cosine) and found.shrink == 0 and found.ratios == pytest.approx([0.0] * D_IN)
    names = [reading.metric for reading in proposition_readings("fc", x, h, weight, side="above")]
    assert "prop1_cosine" not in names and "prop1_shrink" in names


def test_one_hot_inputs_are_isotropic_so_that_it_is_plain_weight_decay():
    x = torch.eye(D_IN, dtype=torch.float64).repeat(4, 1)
    _, _, weight = layer(scale=1e4)
    found = proposition_1(x, x @ weight.T, weight)
    assert found.eigenvalues == pytest.approx([1 / D_IN] * D_IN)
    assert found.weight_decay_cosine == pytest.approx(1.0, abs=1e-4)


def test_a_bias_leaves_what_the_proposition_does_not_have():
    x, _, weight = layer(scale=1e4)
    centred = x - x.mean(0)
    assert proposition_1(centred, centred @ weight.T + 1e4, weight).cosine == pytest.approx(1.0, abs=0.01)
    shifted = x + 1
    assert proposition_1(shifted, shifted @ weight.T + 1e5, weight).cosine < 0.9


def test_fewer_rows_than_inputs_give_the_same_directions_and_no_null_ones():
    x, h, weight = layer(n=4, d_in=9)
    found = proposition_1(x, h, weight)
    sigma = x.T @ x / 4
    assert found.eigenvalues == pytest.approx(torch.linalg.eigvalsh(sigma).flip(0)[:4].tolist())
    doubled = torch.cat([x, x, x])  # the other Gram matrix, the same mean
    again = proposition_1(doubled, doubled @ weight.T, weight)
    assert again.ratios == pytest.approx(found.ratios) and len(found.ratios) == 4


def test_the_first_sixteen_directions_are_read():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(60, 40, generator=generator), torch.randn(D, 40, generator=generator)
    readings = proposition_readings("block.fc", x, x @ weight.T, weight)
    ratios = [reading for reading in readings if reading.metric == "prop1_ratio"]
    assert [reading.index for reading in ratios] == list(range(16))
    assert all(reading.site == "block.fc" and reading.samples == 60 for reading in readings)
    values = [reading.value for reading in readings if reading.metric == "prop1_eigenvalue"]
    assert values == sorted(values, reverse=True) and len(values) == 16


def test_zero_vectors_have_no_pull():
    x, h, weight = layer()
    padded = proposition_1(torch.cat([x, torch.zeros_like(x)]), torch.cat([h, torch.zeros_like(h)]), weight)
    alone = proposition_1(x, h, weight)
    assert padded.cosine == pytest.approx(alone.cosine) and padded.shrink == pytest.approx(alone.shrink)
    assert math.isnan(proposition_1(x, torch.zeros_like(h), torch.zeros_like(weight)).shrink)


def test_weights_of_linear_layers_and_of_gpt2_are_those_of_h_equals_w_x_plus_b():
    model = tiny_gpt2().eval()
    seen = {}
    for name in ("transformer.h.0.mlp.c_proj", "lm_head"):
        model.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: (m, a[0], out)}))
    with torch.no_grad():
        model(**stack(token_rows(2, False)))
    for module, x, h in seen.values():
        bias = 0 if getattr(module, "bias", None) is None else module.bias
        torch.testing.assert_close(x @ weight_of(module).T + bias, h, atol=1e-4, rtol=1e-4)
    assert weight_of(nn.Embedding(3, 4)) is None and weight_of(nn.LayerNorm(3)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, h, w: {"weight": w.T}, "do not fit"),
        (lambda x, h, w: {"x": x[1:]}, "do not fit"),
        (lambda x, h, w: {"x": x[:0], "h": h[:0]}, "no vector"),
        (lambda x, h, w: {"h": h * math.inf}, "h has numbers that are not finite"),
        (lambda x, h, w: {"radius": -1.0}, "radius"),
        (lambda x, h, w: {"side": "inside"}, "side"),
    ],
)
def test_bad_input_is_named(change, message):
    x, h, weight = layer()
    with pytest.raises(ValueError, match=message):
        proposition_1(**{"x": x, "h": h, "weight": weight, **change(x, h, weight)})
