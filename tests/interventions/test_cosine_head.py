"""The cosine head: its logits and gradients against float64, and what it does not depend on."""

import pytest
import torch
from intervention_runs import PAIRS, P, make, seeded_model, weights
from reference import tiny_gpt2

from hf_radial.interventions.cosine_head import cosine_logits

pytestmark = pytest.mark.quick
SCALE = 7.0


def start():
    return seeded_model().double()


def by_hand(model):
    h = model.embedding(PAIRS).flatten(1)
    for layer in model.hidden:
        h = layer(h).relu()
    w = model.classifier.weight
    return torch.stack([SCALE * (h @ row) / (h.norm(dim=1) * row.norm()) for row in w], 1)


@pytest.mark.parametrize("accumulated", [1, 7])
def test_a_step_is_that_of_scaled_cosines(accumulated, tmp_path):
    options = {"per_device_train_batch_size": 49 // accumulated, "gradient_accumulation_steps": accumulated}
    options |= {"max_steps": 1, "learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0.0}
    trainer = make(tmp_path, [f"cosine_head:scale={SCALE}"], model=start(), **options)
    with torch.no_grad():
        torch.testing.assert_close(trainer.model(input_ids=PAIRS).logits, by_hand(start()), rtol=1e-10, atol=1e-10)
    trainer.train()
    model = start()
    torch.nn.functional.cross_entropy(by_hand(model), PAIRS.sum(1) % P).backward()
    for name, p in model.named_parameters():
        expected = p.detach() if p.grad is None else p.detach() - p.grad  # the bias of the head has none
        torch.testing.assert_close(weights(trainer)[name], expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(weights(trainer)["classifier.bias"], model.classifier.bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lengths_have_no_effect_and_zeros_are_finite(dtype):
    torch.manual_seed(0)
    h, rows = torch.randn(3, 8).to(dtype), torch.randn(5, 8).to(dtype)
    found = cosine_logits(h, rows, SCALE)
    assert found.dtype == dtype and float(found.abs().max()) <= SCALE * 1.01
    torch.testing.assert_close(cosine_logits(4 * h, rows / 8, SCALE), found)
    assert not cosine_logits(0 * h, rows, SCALE).any()


def test_beside_a_projection_of_radius_one_the_head_reads_directions_alone(tmp_path):
    trainer = make(tmp_path, ["projection:radius=1", f"cosine_head:scale={SCALE}"], model=start().float())
    trainer.train()
    with torch.no_grad():
        before = trainer.model.eval()(input_ids=PAIRS).logits
        for layer in (*trainer.model.hidden, trainer.model.classifier):
            layer.weight.mul_(3)
            layer.bias.mul_(3)
        torch.testing.assert_close(trainer.model(input_ids=PAIRS).logits, before, rtol=1e-4, atol=1e-5)


def test_a_head_that_is_not_linear_is_refused(tmp_path):
    model = tiny_gpt2(width=8)
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(8, model.config.vocab_size))
    with pytest.raises(ValueError, match="cosine_head: the head of GPT2LMHeadModel is no linear layer"):
        make(tmp_path, ["cosine_head:scale=5"], model=model)
