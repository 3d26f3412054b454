"""SAM's step against float64 written out: with micro-batches, with the penalty, clipped, and with clean logs."""

import copy

import pytest
import torch
from intervention_runs import PAIRS, Ours, P, make, seeded_model, weights
from transformers import Trainer

from hf_radial.interventions import add_interventions
from hf_radial.interventions.sam import ascents

pytestmark = pytest.mark.quick
LABELS = PAIRS.sum(1) % P
RHO, STRENGTH, RADIUS = 0.7, 0.3, 2.0


def start():
    return seeded_model().double()


def loss_of(model, penalised):
    h, loss = model.embedding(PAIRS).flatten(1), 0.0
    for layer in model.hidden:
        h = layer(h)
        if penalised:
            loss = loss + STRENGTH * ((h.norm(dim=1) - RADIUS) ** 2 / h.shape[1]).mean()
        h = h.relu()
    return loss + torch.nn.functional.cross_entropy(model.classifier(h), LABELS)


def step_by_hand(model, adaptive, penalised, limit):
    """One step of learning rate 1, slowly."""
    first = torch.autograd.grad(loss_of(model, penalised), list(model.parameters()))
    moved = copy.deepcopy(model)
    weight = [p.detach().abs() if adaptive else torch.ones_like(p) for p in model.parameters()]
    length = sum((w * g).square().sum() for w, g in zip(weight, first, strict=True)).sqrt()
    with torch.no_grad():
        for p, w, g in zip(moved.parameters(), weight, first, strict=True):
            p += RHO * w**2 * g / length
    second = torch.autograd.grad(loss_of(moved, penalised), list(moved.parameters()))
    norm = sum(g.square().sum() for g in second).sqrt()
    factor = min(1.0, limit / float(norm)) if limit else 1.0
    return {name: p.detach() - factor * g for (name, p), g in zip(model.named_parameters(), second, strict=True)}


@pytest.mark.parametrize("kind", [Trainer, Ours])
@pytest.mark.parametrize(
    ("adaptive", "penalised", "limit", "accumulated"),
    [(False, False, 0.0, 1), (True, False, 0.0, 1), (False, True, 0.0, 7), (True, True, 0.1, 7), (False, False, 0.1, 7)],
)
def test_the_step_is_that_of_the_formula(kind, adaptive, penalised, limit, accumulated, tmp_path):
    given = [f"sam:rho={RHO},adaptive={str(adaptive).lower()}"]
    given += [f"radial:strength={STRENGTH},radius={RADIUS}"] * penalised
    model = start()
    options = {"per_device_train_batch_size": 49 // accumulated, "gradient_accumulation_steps": accumulated}
    options |= {"max_steps": 1, "learning_rate": 1.0, "optim": "sgd", "max_grad_norm": limit}
    trainer = make(tmp_path, given, kind, model=model, **options)
    trainer.train()
    for name, exact in step_by_hand(start(), adaptive, penalised, limit).items():
        torch.testing.assert_close(weights(trainer)[name], exact, rtol=1e-5, atol=1e-6)  # clipping is in float32
    assert "training_step" not in vars(trainer)


def test_logs_are_those_of_the_first_pass(tmp_path):
    options = {"per_device_train_batch_size": 7, "gradient_accumulation_steps": 7, "max_steps": 1}
    found = []
    for given in ([], ["sam:rho=0.7"]):
        trainer = make(tmp_path, [*given, f"radial:strength={STRENGTH},radius={RADIUS}"], Ours, model=start(), **options)
        trainer.train()
        found.append(trainer.state.log_history[0])
    assert found[0].keys() == found[1].keys() and "radius/hidden.0" in found[0]
    for name in ("loss", "task_loss", "radial_penalty", "radial_lambda", "radius/hidden.0"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-6), name


def test_the_move_has_the_given_length_and_weights_come_back_exactly(tmp_path):
    torch.manual_seed(0)
    parameters, gradients = ([torch.randn(3, 4), torch.randn(5)] for _ in range(2))
    moves = ascents(parameters, gradients, 0.3)
    assert float(sum(move.square().sum() for move in moves).sqrt()) == pytest.approx(0.3, rel=1e-6)
    still = ascents(parameters, [torch.zeros(3, 4), torch.zeros(5)], 0.3)
    assert not any(move.any() for move in still)
    model = start()
    trainer = make(tmp_path, ["sam"], model=model, max_steps=1, learning_rate=0.0)
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), start().parameters(), strict=True))


def test_a_step_that_something_has_replaced_is_refused(tmp_path):
    trainer = make(tmp_path)
    trainer.training_step = trainer.training_step
    with pytest.raises(ValueError, match="sam: something has replaced the trainer's training_step"):
        add_interventions(trainer, ["sam"])
