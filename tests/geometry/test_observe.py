"""Observations on a probe equal those of a slow float64 pass without hooks, and observing leaves no trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from reference import gpt2_forward, stack, tiny_gpt2, tiny_llama, token_rows
from torch import nn

from hf_radial import RadialPenalty, find_sites
from hf_radial.geometry.measure import GROUPS, ModularTable, measure
from hf_radial.geometry.observe import observe, quiet
from hf_radial.geometry.radial import radial_energy
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.penalty.functional import radial_penalty

pytestmark = pytest.mark.quick


def modular_model(p=7, width=16):
    torch.manual_seed(0)
    return ModularMLPForSequenceClassification(ModularMLPConfig(modulus=p, embedding_size=8, hidden_size=width))


def modular_batch(p=7):
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    return {"input_ids": pairs, "labels": pairs.sum(1) % p}


def values(measurement):
    return {(r.site, r.metric, r.index): r.value for r in measurement.readings if not r.metric.startswith("seconds")}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("radial_lambda", [0.0, 0.3])
def test_vectors_and_gradients_are_those_of_a_float64_pass_without_hooks(padded, radial_lambda):
    model, batch = tiny_gpt2(dropout=0.5), stack(token_rows(6, padded))
    model.train()
    sites = list(find_sites(model, {k: v for k, v in batch.items() if k != "labels"}))
    with quiet(model) as measured:
        seen = observe(measured, batch, sites, radial_lambda=radial_lambda)

    double = copy.deepcopy(model).double().eval()
    double.set_attn_implementation("eager")
    logits, increments = gpt2_forward(double, batch)
    labels = batch["labels"][:, 1:]
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    penalty = sum(radial_penalty(h, mask=real) for h in increments.values())
    tensors = list(increments.values())
    gradients = torch.autograd.grad(loss, tensors, retain_graph=True)
    pulls = torch.autograd.grad(radial_lambda * penalty, tensors)
    assert seen.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert [view.site.name for view in seen.sites] == list(increments)
    for view, h, gradient, pull in zip(seen.sites, tensors, gradients, pulls, strict=True):
        for found, expected in ((view.vectors, h), (view.gradient, gradient), (view.penalty_gradient, pull)):
            expected = expected[real].detach()
            assert found.shape == expected.shape
            assert (found.double() - expected).norm() <= 1e-5 * expected.norm() + 1e-12
        energy = radial_energy(view.gradient, view.vectors)[0]
        assert energy.item() == pytest.approx(radial_energy(gradient[real], h[real].detach())[0].item(), rel=1e-4)


def test_radial_energy_is_of_the_task_loss_however_heavy_the_penalty():
    model, batch = tiny_gpt2(), stack(token_rows(6, True))
    found = []
    for weight in (0.0, 0.1, 1e5):
        penalty = RadialPenalty(model, weight)
        with penalty:  # hooks of the penalty are on, as in training
            found.append(values(measure(model, batch, ["radial"], penalty=penalty)))
    energy = [{k: v for k, v in one.items() if k[1] == "radial_energy"} for one in found]
    total = [{k: v for k, v in one.items() if k[1] == "radial_energy_total"} for one in found]
    assert energy[0] == energy[1] == energy[2]
    assert list(total[0].values()) == list(energy[0].values())
    assert total[0] != total[1] != total[2]
    # The penalty's own gradient is radial at its site; with what later sites send back it is no longer exactly so.
    assert max(total[2].values()) > 10


def test_nothing_is_left_behind():
    model, batch = modular_model(), modular_batch()
    model.hidden[0].eval()
    model.classifier.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    measure(model, batch, GROUPS, modular=ModularTable(7), learning_rate=1e-3, held_out=batch)
    drawn = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(drawn[0], expected[0]) and drawn[1:] == expected[1:]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not model.classifier.weight.requires_grad


def test_measuring_twice_gives_the_same_numbers():
    model, batch = modular_model(), modular_batch()
    first, second = (measure(model, batch, GROUPS, modular=ModularTable(7), learning_rate=0.1) for _ in range(2))
    assert values(first) == values(second)
    assert {site for site, _, _ in values(first)} >= {"", "hidden.0", "hidden.1", "embedding", "logits"}
    assert not first.failures


def test_a_model_in_bfloat16_is_measured_in_float32():
    model, batch = tiny_gpt2().to(torch.bfloat16), stack(token_rows(6, True))
    weights = copy.deepcopy(model.state_dict())
    exact = copy.deepcopy(model).float()
    groups = ["radial", "spectrum", "function", "drift", "proposition", "curvature"]
    assert values(measure(model, batch, groups)) == values(measure(exact, batch, groups))
    assert next(model.parameters()).dtype == torch.bfloat16
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_half_of_the_model_frozen_has_the_same_gradients():
    model, batch = tiny_llama(), stack(token_rows(6, True))
    expected = values(measure(model, batch, ["radial"]))
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    frozen = values(measure(model, batch, ["radial"]))
    # With nothing trainable before it, a site's gradient is the same: of the loss, at its vectors.
    assert frozen.keys() == expected.keys()
    for key, value in expected.items():
        assert frozen[key] == pytest.approx(value, rel=1e-5), key


def test_a_site_that_the_model_writes_over_is_seen_as_it_was():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x, labels=None):
            h = self.a(x)
            h.mul_(2).relu_()
            logits = self.b(h)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    torch.manual_seed(0)
    model = Overwriting()
    batch = {"x": torch.randn(8, 4), "labels": torch.arange(8) % 3}
    sites = find_sites(model, {"x": batch["x"], "labels": batch["labels"]}, ["a"])
    with quiet(model) as measured:
        (view,) = observe(measured, batch, list(sites)).sites
    h = model.a(batch["x"]).detach().requires_grad_()
    loss = nn.functional.cross_entropy(model.b((2 * h).relu()), batch["labels"])
    torch.testing.assert_close(view.vectors, h.detach())
    torch.testing.assert_close(view.gradient, torch.autograd.grad(loss, h)[0])


def test_nan_at_a_site_is_named_and_the_others_are_measured():
    model, batch = modular_model(), modular_batch()
    with torch.no_grad():
        model.hidden[1].weight[0] = float("nan")
    found = measure(model, batch, GROUPS, modular=ModularTable(7))
    assert any("'hidden.1'" in failure for failure in found.failures)
    assert any(failure.startswith("curvature") for failure in found.failures)
    numbers = values(found)
    assert numbers["hidden.1", "nonfinite", None] == 1
    assert numbers["hidden.0", "radius_mean", None] > 0 and numbers["hidden.0", "effective_rank", None] > 1
    assert all(np.isfinite(value) for value in numbers.values())


def test_bad_input_is_named():
    model, batch = modular_model(), modular_batch()
    with pytest.raises(ValueError, match="'ranks' is unknown; choose among radial"):
        measure(model, batch, ["ranks"])
    with pytest.raises(ValueError, match="must be a list"):
        measure(model, batch, "radial")
    with pytest.raises(ValueError, match="give modular="):
        measure(model, batch, ["fourier"])
    with pytest.raises(ValueError, match="returned no loss"):
        measure(model, {"input_ids": batch["input_ids"]}, ["radial"])
    with pytest.raises(ValueError, match="has 48 rows; the table of modulus 7 has 49"):
        ModularTable(7, inputs={"input_ids": batch["input_ids"][1:]})
    with pytest.raises(ValueError, match="operation='mul' is not supported"):
        ModularTable(7, "mul")


def test_former_names_still_work():
    from hf_radial.geometry.measure import DEAR_GROUPS, EXPENSIVE_GROUPS, Measurement, Memory

    assert DEAR_GROUPS is EXPENSIVE_GROUPS
    with pytest.warns(FutureWarning, match="failures"):
        assert Measurement([], Memory(), ["no labels"]).troubles == ["no labels"]
