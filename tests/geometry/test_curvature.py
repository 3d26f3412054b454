"""Curvature against exact Hessians, over many seeds. Measuring it changes nothing."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from reference import stack, tiny_gpt2, token_rows
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_radial.geometry.curvature import (
    Hessian,
    curvature_readings,
    hessian_trace,
    lambda_max,
    normalized_sharpness,
    sam_sharpness,
)


def mlp(dtype=torch.float64, seed=0):
    """A network whose Hessian is indefinite, the loss as a closure, and its parameters."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)
    x, y = torch.randn(30, 6).to(dtype), torch.randint(4, (30,))
    return model, lambda call=model: nn.functional.cross_entropy(3 * call(x), y)


def exact_hessian(model, loss_of):
    """The whole matrix by autograd.functional, in float64, each shared parameter once."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in parameters]

    def of_flat(flat):
        pieces = flat.split(sizes)
        named = {n: v.view_as(p) for n, v, p in zip(names, pieces, parameters, strict=True)}
        return loss_of(lambda *args, **kwargs: functional_call(model, named, args, kwargs))

    return torch.autograd.functional.hessian(of_flat, torch.cat([p.detach().flatten() for p in parameters]))


def mlp_with_hessian():
    model, loss = mlp()
    return list(model.parameters()), loss, exact_hessian(model, loss)


def quadratic(matrix):
    """A loss whose Hessian is `matrix`."""
    theta = torch.ones(len(matrix), dtype=matrix.dtype, requires_grad=True)
    return lambda: theta @ matrix @ theta / 2, [theta]


def with_spectrum(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T


def test_products_are_columns_of_the_exact_hessian():
    parameters, loss, matrix = mlp_with_hessian()
    hessian = Hessian(loss, parameters)
    columns = [hessian.product(e) for e in torch.eye(hessian.size, dtype=torch.float64)]
    torch.testing.assert_close(torch.stack(columns, 1), matrix)
    assert float(torch.linalg.eigvalsh(matrix)[0]) < -0.01  # it is indefinite: a GGN would fail here


def test_float32_products_are_exact_to_rounding():
    _, _, matrix = mlp_with_hessian()
    model, loss = mlp(torch.float32)  # the same numbers: they are drawn in float32
    hessian = Hessian(loss, list(model.parameters()))
    v = hessian.random_vector(torch.Generator().manual_seed(1))
    assert v.dtype == torch.float32
    torch.testing.assert_close(hessian.product(v).double(), matrix @ v.double(), atol=2e-5, rtol=1e-5)


def gpt2_loss(model):
    batch = stack(token_rows(4, True))

    def loss():
        with sdpa_kernel(SDPBackend.MATH):
            return model(**batch).loss

    return loss, batch


def test_tied_weights_of_gpt2_are_one_parameter():
    model = tiny_gpt2(width=4, layers=1).eval().double()
    model.config._attn_implementation = "sdpa"
    loss, batch = gpt2_loss(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    with sdpa_kernel(SDPBackend.MATH):
        matrix = exact_hessian(model, lambda call: call(**batch).loss)
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)]
    assert len(parameters) > len(list(model.parameters()))  # the tied one is in it twice
    hessian = Hessian(loss, parameters)
    assert hessian.size == len(matrix)
    v = hessian.random_vector(torch.Generator().manual_seed(0))
    torch.testing.assert_close(hessian.product(v), matrix @ v)
    largest = lambda_max(loss, parameters, tolerance=1e-6)
    assert largest.value == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-6)


def test_attention_without_a_second_derivative_says_what_to_do():
    model = tiny_gpt2(width=4, layers=1).eval()
    model.set_attn_implementation("sdpa")
    batch = stack(token_rows(4, False))

    def loss():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return model(**batch).loss

    with pytest.raises(RuntimeError, match=r"SDPBackend\.MATH"):
        hessian_trace(loss, list(model.parameters()))


def test_frozen_parameters_and_those_without_effect():
    parameters, loss, matrix = mlp_with_hessian()
    parameters[0].requires_grad_(False)
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    hessian = Hessian(loss, [*parameters, unused])
    frozen = parameters[0].numel()
    expected = torch.zeros(hessian.size, hessian.size, dtype=torch.float64)
    expected[:-3, :-3] = matrix[frozen:, frozen:]
    columns = [hessian.product(e) for e in torch.eye(hessian.size, dtype=torch.float64)]
    torch.testing.assert_close(torch.stack(columns, 1), expected)


def test_a_linear_loss_has_no_curvature():
    w = torch.ones(5, requires_grad=True)
    values = {r.metric: r.value for r in curvature_readings(lambda: 3 * w.sum(), [w], None)}
    assert values["hessian_trace"] == values["hessian_trace_hutchinson"] == values["lambda_max"] == 0
    assert values["sam_sharpness"] == pytest.approx(0.05 * 3 * math.sqrt(5), rel=1e-5)


SPECTRA = {
    "outliers": [50.0, 30.0, -20.0] + [0.5 * (-1) ** i * (i % 7) for i in range(60)],
    "decay": [20.0 / (1 + i) ** 1.5 for i in range(60)],
    "flat": [1.0 + 0.01 * i for i in range(60)],
    "negative": [-1.0 - 0.1 * i for i in range(60)],
}


# Of each method the spectrum of mixed signs, and a positive one; the others repeat the proof, 200 estimates each.
AT_ONCE = {("outliers", "hutch++"), ("outliers", "hutchinson"), ("decay", "hutch++")}


@pytest.mark.parametrize(
    ("spectrum", "method"),
    [
        pytest.param(spectrum, method, marks=[] if (spectrum, method) in AT_ONCE else pytest.mark.slow)
        for spectrum in SPECTRA
        for method in ("hutch++", "hutchinson")
    ],
)
def test_the_standard_error_of_the_trace_is_honest(method, spectrum):
    """Unbiased, three standard errors hold what they should, and their mean square is the true variance."""
    seeds = 200
    loss, parameters = quadratic(with_spectrum(SPECTRA[spectrum]))
    found = [hessian_trace(loss, parameters, seed=seed, method=method) for seed in range(seeds)]
    errors = torch.tensor([estimate.value - sum(SPECTRA[spectrum]) for estimate in found])
    stated = torch.tensor([estimate.standard_error for estimate in found])
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / seeds**0.5
    # Of 11 to 32 samples, Student's t puts 98.8 to 99.5 % within three standard errors.
    assert float((errors.abs() <= 3 * stated).double().mean()) >= 0.96
    assert 0.75 < float(stated.square().mean() / errors.square().mean()) < 1.33


def test_both_traces_from_the_same_products_are_honest():
    seeds, spectrum = 100, SPECTRA["outliers"]
    loss, parameters = quadratic(with_spectrum(spectrum))
    ratios = {}
    for seed in range(seeds):
        for r in curvature_readings(loss, parameters, None, seed=seed):
            if r.metric.startswith("hessian_trace"):
                ratios.setdefault(r.metric, []).append((r.value - sum(spectrum), r.standard_error, r.samples))
    for values in ratios.values():
        assert sum(abs(error) <= 3 * stated for error, stated, _ in values) >= 0.95 * seeds
    spread = {metric: math.sqrt(sum(e**2 for e, _, _ in values) / seeds) for metric, values in ratios.items()}
    assert spread["hessian_trace"] < spread["hessian_trace_hutchinson"] / 3  # what Hutch++ is for
    assert ratios["hessian_trace"][0][2] == 32 and ratios["hessian_trace_hutchinson"][0][2] == 22


def test_the_traces_of_a_network_are_within_their_error():
    parameters, loss, matrix = mlp_with_hessian()
    exact = float(matrix.trace())
    for method in ("hutch++", "hutchinson"):
        found = [hessian_trace(loss, parameters, seed=seed, method=method) for seed in range(20)]
        assert sum(abs(e.value - exact) <= 3 * e.standard_error for e in found) >= 19
        assert all(e.standard_error < 0.5 * exact for e in found)


def test_hutch_of_a_low_rank_hessian_is_exact():
    loss, parameters = quadratic(with_spectrum([5.0, -3.0, 1.0] + [0.0] * 40))
    estimate = hessian_trace(loss, parameters)
    assert estimate.value == pytest.approx(3.0, abs=1e-9) and estimate.standard_error < 1e-9


@pytest.mark.parametrize("size", [1, 2, 5])
def test_more_probes_than_parameters(size):
    loss, parameters = quadratic(with_spectrum([float(i + 1) for i in range(size)]))
    assert hessian_trace(loss, parameters).value == pytest.approx(size * (size + 1) / 2)
    assert lambda_max(loss, parameters).value == pytest.approx(size)


@pytest.mark.parametrize(
    "spectrum",
    [
        [-100.0, -50.0, 3.0, 1.0, 0.5, 0.0],
        [-9.0, -4.0, -1.0, -0.5],
        [2.0, 2.0, 2.0, 1.0],
        [*SPECTRA["outliers"]],
        [*SPECTRA["decay"]],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lambda_max_is_the_algebraically_largest_within_its_bound(spectrum, dtype):
    matrix = with_spectrum(spectrum).to(dtype)
    loss, parameters = quadratic(matrix)
    for seed in range(5):
        found = lambda_max(loss, parameters, seed=seed)
        scale = max(map(abs, spectrum))
        assert abs(found.value - max(spectrum)) <= found.standard_error + 1e-5 * scale
        assert found.standard_error <= 1.1e-3 * abs(max(spectrum)) + 1e-5 * scale


def test_lanczos_stays_orthogonal_where_eigenvalues_differ_by_orders():
    """Without reorthogonalisation rounding brings the largest back, and the residual bound says nothing."""
    spectrum = [10.0 ** (4 - i / 4) for i in range(60)]
    loss, parameters = quadratic(with_spectrum(spectrum).float())
    found = lambda_max(loss, parameters, tolerance=1e-7, max_products=50)
    assert found.value == pytest.approx(1e4, rel=1e-5) and found.standard_error < 0.1


def test_lambda_max_that_ran_out_of_products_states_a_large_error():
    loss, parameters = quadratic(with_spectrum([1.0 + 0.01 * i for i in range(200)]))
    found = lambda_max(loss, parameters, max_products=4)
    assert found.samples == 4 and found.standard_error > 0.05
    assert abs(found.value - 2.99) > 1e-3


def test_lambda_max_of_a_network():
    parameters, loss, matrix = mlp_with_hessian()
    found = lambda_max(loss, parameters, tolerance=1e-8, max_products=100)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-9)


def test_normalized_sharpness_does_not_change_with_the_scale_of_a_scale_invariant_loss():
    torch.manual_seed(0)
    theta, target = torch.randn(12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)

    def sharpness(scale):
        w = (scale * theta).requires_grad_()
        largest = lambda_max(lambda: ((w / w.norm()) @ target) ** 3, [w], tolerance=1e-8)
        return normalized_sharpness(largest.value, [w])

    assert sharpness(7.0) == pytest.approx(sharpness(1.0), rel=1e-6) and sharpness(1.0) > 0


def test_sam_sharpness_is_its_definition():
    parameters, loss, _ = mlp_with_hessian()
    here = loss()
    gradients = torch.autograd.grad(here, parameters)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    found = sam_sharpness(loss, parameters, rho=0.3)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p.add_(0.3 * g / norm)
        difference = loss() - here
    assert found == pytest.approx(float(difference), rel=1e-9) and found > 0


@pytest.mark.parametrize("scale", [0.0, 1e-36])
def test_sam_sharpness_of_a_vanishing_gradient(scale):
    w = torch.ones(4, requires_grad=True)
    assert sam_sharpness(lambda: (scale * w).sum(), [w]) == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("fails", [False, True])
def test_parameters_are_put_back_bit_for_bit(fails):
    model, loss = mlp(torch.float32)
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    moved = []

    def failing():
        if not torch.is_grad_enabled():  # the evaluation at the moved parameters
            moved.append(not all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True)))
            if fails:
                raise KeyboardInterrupt
        return loss()

    if fails:
        with pytest.raises(KeyboardInterrupt):
            sam_sharpness(failing, parameters)
    else:
        sam_sharpness(failing, parameters)
    assert moved == [True]
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_measuring_leaves_gradients_random_state_parameters_and_no_graph():
    model, loss = mlp(torch.float32)
    parameters = list(model.parameters())
    for p in parameters[1:]:
        p.grad = torch.randn_like(p)
    before = [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in parameters]
    state = torch.get_rng_state()
    kept = []

    def watched():
        value = loss()
        kept.append(weakref.ref(value))
        return value

    gc.disable()
    try:
        with torch.no_grad():  # as a callback may
            first = curvature_readings(watched, parameters, 0.01)
        assert not any(reference() is not None for reference in kept)  # no cycle holds the graph
    finally:
        gc.enable()
    assert torch.equal(torch.get_rng_state(), state)
    for p, (value, gradient) in zip(parameters, before, strict=True):
        assert torch.equal(p, value) and p.requires_grad
        assert p.grad is None if gradient is None else torch.equal(p.grad, gradient)
    assert curvature_readings(loss, parameters, 0.01) == first
    assert curvature_readings(loss, parameters, 0.01, seed=1) != first


def test_the_readings_of_the_group():
    parameters, loss, matrix = mlp_with_hessian()
    readings = {r.metric: r for r in curvature_readings(loss, parameters, 0.01, probes=60)}
    assert list(readings) == [
        "hessian_trace",
        "hessian_trace_hutchinson",
        "lambda_max",
        "normalized_sharpness",
        "sam_sharpness",
        "two_over_lr",
    ]
    assert readings["two_over_lr"].value == 200
    squares = float(sum(p.detach().square().sum() for p in parameters))
    largest = float(torch.linalg.eigvalsh(matrix)[-1])
    assert readings["lambda_max"].value == pytest.approx(largest, rel=1e-4)
    assert readings["normalized_sharpness"].value == pytest.approx(largest * squares, rel=1e-4)
    assert readings["normalized_sharpness"].standard_error == pytest.approx(readings["lambda_max"].standard_error * squares)
    assert readings["sam_sharpness"].value == sam_sharpness(loss, parameters)
    for metric in ("hessian_trace", "hessian_trace_hutchinson"):
        assert abs(readings[metric].value - float(matrix.trace())) <= 4 * readings[metric].standard_error
    for rate in (None, 0.0):
        assert "two_over_lr" not in {r.metric for r in curvature_readings(loss, parameters, rate)}


@pytest.mark.parametrize(
    ("loss_of", "message"),
    [
        (lambda w: w.sum() * math.nan, "the loss is nan"),
        (lambda w: w.sum() * math.inf, "the loss is inf"),
        (lambda w: w * 2, "scalar"),
        (lambda w: w.detach().sum(), "none of the parameters"),
        (lambda w: (w - w).abs().sqrt().sum(), "not finite"),
    ],
)
def test_a_loss_that_cannot_be_measured_is_a_value_error(loss_of, message):
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        curvature_readings(lambda: loss_of(w), [w], None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss, ps: hessian_trace(loss, ps, probes=3), "probes=3"),
        (lambda loss, ps: hessian_trace(loss, ps, probes=1, method="hutchinson"), "probes=1"),
        (lambda loss, ps: hessian_trace(loss, ps, method="xtrace"), "method='xtrace'"),
        (lambda loss, ps: lambda_max(loss, ps, max_products=1), "max_products=1"),
        (lambda loss, ps: lambda_max(loss, ps, tolerance=0), "tolerance=0"),
        (lambda loss, ps: sam_sharpness(loss, ps, rho=-1), "rho=-1"),
        (lambda loss, ps: curvature_readings(loss, ps, None, probes=2), "probes=2"),
        (lambda loss, ps: hessian_trace(loss, [p.detach() for p in ps]), "none of the parameters requires a gradient"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_computed(call, message):
    w = torch.ones(3, requires_grad=True)

    def loss():
        raise AssertionError("called")

    with pytest.raises(ValueError, match=message):
        call(loss, [w])
