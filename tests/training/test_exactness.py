"""For every split of the effective batch, a step has the gradient and the logged values of the unsplit batch."""

from __future__ import annotations

import json

import pytest
import torch
from exactness_worker import ACCUMULATION, DOORS, LAMBDA, ROWS, case_name, one_step
from reference import reference, relative_error, stack, tiny_gpt2, token_rows
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments
from two_processes import launch

from hf_radial import RadialPenalty, RadialTrainer
from hf_radial.models import ModularMLPConfig, ModularMLPForSequenceClassification

pytestmark = pytest.mark.quick

TOLERANCE = 1e-5
MATRIX = [(door, accumulation, padded) for door in DOORS for accumulation in ACCUMULATION for padded in (False, True)]


def check(gradients, log, padded, **options):
    expected = reference(tiny_gpt2(), stack(token_rows(ROWS, padded)), LAMBDA, **options)
    assert relative_error(gradients, expected["gradients"]) < TOLERANCE
    assert log["task_loss"] == pytest.approx(expected["task_loss"], rel=TOLERANCE)
    assert log["radial_penalty"] == pytest.approx(expected["radial_penalty"], rel=TOLERANCE)
    assert log["loss"] == pytest.approx(expected["task_loss"] + LAMBDA * expected["radial_penalty"], rel=TOLERANCE)
    for site, radius in expected["radius"].items():
        assert log[f"radius/{site}"] == pytest.approx(radius, rel=TOLERANCE)
        assert log[f"radius_target/{site}"] == pytest.approx(options.get("radius") or 32**0.5)


def test_the_penalty_matters_in_these_tests():
    batch = stack(token_rows(ROWS, True))
    with_penalty = reference(tiny_gpt2(), batch, LAMBDA)["gradients"]
    without = reference(tiny_gpt2(), batch, 0.0)["gradients"]
    on_all_vectors = reference(tiny_gpt2(), {k: v for k, v in batch.items() if k != "attention_mask"}, LAMBDA)["gradients"]
    assert relative_error(without, with_penalty) > 0.1
    assert relative_error(on_all_vectors, with_penalty) > 0.01


@pytest.mark.parametrize(("door", "accumulation", "padded"), MATRIX)
def test_one_process_equals_the_whole_batch(door, accumulation, padded, tmp_path):
    check(*one_step(door, accumulation, padded, tmp_path), padded)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    launch("exactness_worker.py", str(folder))
    return folder


@pytest.mark.parametrize(("door", "accumulation", "padded"), MATRIX)
def test_two_processes_equal_the_whole_batch(door, accumulation, padded, two_processes):
    name = case_name(door, accumulation, padded)
    gradients = load_file(two_processes / f"{name}.safetensors")
    check(gradients, json.loads((two_processes / f"{name}.json").read_text()), padded)


def test_variants_equal_the_whole_batch(tmp_path):
    gradients, log = one_step("trainer", 2, True, tmp_path, radial_radius=2.0, radial_side="above")
    check(gradients, log, True, radius=2.0, side="above")


@pytest.mark.parametrize("padded", [False, True])
def test_a_hand_written_loop_equals_the_whole_batch(padded):
    model, batch = tiny_gpt2(), stack(token_rows(ROWS, padded))
    expected = reference(model, batch, LAMBDA)
    with RadialPenalty(model, LAMBDA) as penalty:
        model.train()
        (model(**batch).loss + penalty()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert relative_error(gradients, expected["gradients"]) < TOLERANCE


@pytest.mark.parametrize("calls", [1, 2])
def test_gradient_checkpointing_changes_nothing_and_counts_once(calls):
    """Two forwards before one backward: the replay of the first must not see the mask of the second."""
    batches = [stack(token_rows(4, True, seed=seed)) for seed in (1, 2)][:calls]
    outcomes = []
    for checkpointing in (False, True):
        model = tiny_gpt2()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        with RadialPenalty(model, LAMBDA) as penalty:
            loss = sum(model(**batch).loss for batch in batches)
            value = penalty()
            (loss + value).backward()
            assert not penalty._collected
        outcomes.append((value.item(), {n: p.grad for n, p in model.named_parameters()}))
    (value, gradients), (value_checkpointed, gradients_checkpointed) = outcomes
    assert value_checkpointed == pytest.approx(value, rel=1e-6)
    assert relative_error(gradients_checkpointed, {n: g.double() for n, g in gradients.items()}) < 1e-6


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_a_model_whose_loss_takes_no_kwargs_equals_the_whole_batch(accumulation, tmp_path):
    """Here the Trainer divides the loss by the accumulation steps, which must not touch the penalty."""
    torch.manual_seed(0)
    config = ModularMLPConfig(modulus=7, embedding_size=8, hidden_size=16)
    model = ModularMLPForSequenceClassification(config)
    rows = [{"input_ids": [a, b], "labels": (a + b) % 7} for a in range(4) for b in range(4)]
    twin = ModularMLPForSequenceClassification(config).double()
    twin.load_state_dict(model.state_dict())
    hidden = twin.embedding(torch.tensor([row["input_ids"] for row in rows])).flatten(1)
    loss = torch.zeros((), dtype=torch.float64)
    for layer in twin.hidden:
        pre_activation = layer(hidden)
        loss = loss + LAMBDA * ((pre_activation.norm(dim=-1) - 16**0.5) ** 2 / 16).mean()
        hidden = pre_activation.relu()
    head = [module for module in twin.children() if isinstance(module, nn.Linear)][-1]
    (loss + nn.functional.cross_entropy(head(hidden), torch.tensor([row["labels"] for row in rows]))).backward()
    gradients, _ = one_step("trainer", accumulation, False, tmp_path, model=model, rows=rows)
    assert relative_error(gradients, {n: p.grad for n, p in twin.named_parameters()}) < TOLERANCE


def test_lambda_zero_is_bit_identical_to_the_plain_trainer(tmp_path):
    weights = []
    for trainer_class, options in ((Trainer, {}), (RadialTrainer, {"radial_lambda": 0.0})):
        args = TrainingArguments(
            output_dir=str(tmp_path / trainer_class.__name__),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_steps=20,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        model = tiny_gpt2(dropout=0.1)
        trainer_class(model=model, args=args, train_dataset=token_rows(64, True), **options).train()
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_hand_written_loop_over_uneven_micro_batches():
    """`penalty()` gives each micro-batch's own mean: exact for even ones only, as its docstring says. `take()` is for any."""
    rows = token_rows(ROWS, True)
    whole, parts = stack(rows), [stack(rows[:4]), stack(rows[4:])]
    counts = [part["attention_mask"].sum() for part in parts]
    expected = reference(tiny_gpt2(), whole, 1.0)["radial_penalty"]
    means = [reference(tiny_gpt2(), part, 1.0)["radial_penalty"] for part in parts]
    model = tiny_gpt2().train()
    with RadialPenalty(model, 1.0) as penalty:
        called, taken = 0.0, 0.0
        for part, count in zip(parts, counts, strict=True):
            model(**part)
            called += penalty().item() / len(parts)
            model(**part)
            taken += (count / sum(counts) * penalty.take().mean_penalty().sum()).item()
    assert taken == pytest.approx(expected, rel=1e-6)
    assert called == pytest.approx(sum(means) / 2, rel=1e-6)
    assert abs(called / expected - 1) > 1e-3  # what dividing by the number of micro-batches costs here
