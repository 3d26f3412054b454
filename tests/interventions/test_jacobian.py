"""The penalty on the Jacobian against Jacobians that torch.func computes in float64."""

import copy

import pytest
import torch
from intervention_runs import PAIRS, P, make, small_config, weights
from torch.func import jacrev
from transformers import GPT2Config, GPT2ForSequenceClassification

from hf_radial.interventions.jacobian import jacobian_norms
from hf_radial.models.modular_mlp import ModularMLPForSequenceClassification

pytestmark = pytest.mark.quick


def after_the_embedding(model):
    """Logits as a function of one row of embedded operands and the parameters."""

    def logits(parameters, x):
        h = x.flatten()
        for i in range(len(model.hidden)):
            h = torch.relu(parameters[f"hidden.{i}.weight"] @ h + parameters[f"hidden.{i}.bias"])
        return parameters["classifier.weight"] @ h + parameters["classifier.bias"]

    return logits


def test_the_estimate_is_the_jacobian_and_its_gradient_on_average():
    torch.manual_seed(0)
    model = ModularMLPForSequenceClassification(small_config()).double()
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    x = model.embedding(PAIRS[:5]).detach().requires_grad_()
    logits = torch.stack([after_the_embedding(model)(parameters, row) for row in x])
    jacobians = [jacrev(after_the_embedding(model), argnums=1)(parameters, row) for row in x]
    for k in range(P):  # along each axis it is one row of the Jacobian, up to sqrt(classes)
        found = jacobian_norms(logits, x, torch.eye(P, dtype=torch.float64)[[k] * 5])
        exact = torch.stack([j[k].square().sum().sqrt() for j in jacobians]) * P**0.5
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
        names = ["hidden.0.weight", "hidden.1.weight", "classifier.weight"]
        ours, theirs = (torch.autograd.grad(v.sum(), [parameters[n] for n in names], retain_graph=True) for v in (found, exact))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_the_jacobian_is_in_the_loss_in_training_alone(tmp_path, monkeypatch):
    first = {}

    def fixed(like, dtype=None):
        return first.setdefault("v", torch.linspace(-1, 2, like.numel(), dtype=torch.float64).view(like.shape)).to(dtype)

    model = ModularMLPForSequenceClassification(small_config()).double()
    start = copy.deepcopy(model)
    options = {"learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 1, "per_device_train_batch_size": 49}
    trainer = make(tmp_path, ["jacobian:strength=0.5"], model=model, train_sampling_strategy="sequential", **options)
    before = trainer.evaluate()["eval_loss"]
    assert before == pytest.approx(start(input_ids=PAIRS, labels=PAIRS.sum(1) % P).loss.item(), rel=1e-5)
    monkeypatch.setattr(torch, "randn_like", fixed)
    trainer.train()
    v = torch.nn.functional.normalize(first["v"], dim=-1)
    loss = start(input_ids=PAIRS, labels=PAIRS.sum(1) % P).loss
    named, f = dict(start.named_parameters()), after_the_embedding(start)
    for row, direction in zip(PAIRS, v, strict=True):
        j = jacrev(f, argnums=1)(named, start.embedding(row))
        loss = loss + 0.5 / 49 * (P * torch.einsum("c,cod->od", direction, j).square().sum()).clamp(min=1e-8).sqrt()
    loss.backward()
    for name, p in start.named_parameters():
        torch.testing.assert_close(weights(trainer)[name], p.detach() - p.grad, rtol=1e-5, atol=1e-6)
    assert not trainer.model.embedding._forward_hooks


def test_a_transformer_that_classifies_needs_attention_that_can_be_differentiated_twice(tmp_path):
    rows = [{"input_ids": [1, 2, 3], "labels": k % 5} for k in range(16)]

    def model(kind):
        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 11, "num_labels": 5}
        tokens = {"pad_token_id": 10, "bos_token_id": None, "eos_token_id": None}
        return GPT2ForSequenceClassification(GPT2Config(**sizes, **tokens, attn_implementation=kind))

    with pytest.raises(ValueError, match="jacobian: attention of kind 'sdpa' cannot be differentiated twice"):
        make(tmp_path, ["jacobian"], model=model("sdpa"), rows=rows)
    trainer = make(tmp_path, ["jacobian:strength=0.5"], model=model("eager"), rows=rows)
    trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer).values())
