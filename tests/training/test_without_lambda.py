"""With `radial_lambda=0`, an obstacle to the penalty is only a warning: training goes on, without radii in the log."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from reference import tiny_gpt2, token_rows
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

from hf_radial import RadialMixin
from hf_radial.hub.model_card import write_model_card
from runs import DOORS, SITES, Bare, arguments, make_trainer, training_logs


class Unknown(nn.Module):
    """A model without sublayers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.dropout, self.head = nn.Embedding(14, 8), nn.Dropout(0.1), nn.Linear(8, 14)

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = self.head(self.dropout(self.embedding(input_ids)))
        return CausalLMOutput(loss=nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits=logits)


class Odd(nn.Module):
    """Its batches have neither a mask nor an input of a known name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, x, labels=None):
        y = self.layers(x).squeeze(-1)
        return CausalLMOutput(loss=nn.functional.mse_loss(y, labels), logits=y)


class Skips(nn.Module):
    """Leaves a layer out in training, and asks for a mask that fits no site."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, input_ids, attention_mask=None, labels=None):
        y = self.layers[0](input_ids).relu()
        y = self.layers[4](y if self.training else self.layers[2](y).relu()).squeeze(-1)
        return CausalLMOutput(loss=nn.functional.mse_loss(y, labels), logits=y)


def numbers(name, mask=False):
    rows = [{name: [0.1 * i, 0.2, -0.3], "labels": 0.1 * i} for i in range(32)]
    return [{**row, "attention_mask": [1, 1, 1]} for row in rows] if mask else rows


def plain(folder, model, rows, **args):
    trainer = Trainer(model=model, args=arguments(folder, cls=TrainingArguments, **args), train_dataset=rows)
    trainer.train()
    return trainer


def same_training(trainer, twin):
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), twin.model.parameters(), strict=True))
    assert [logs["loss"] for logs in training_logs(trainer)] == [logs["loss"] for logs in training_logs(twin)]


@pytest.mark.parametrize("door", DOORS)
def test_a_model_without_known_sites_trains_as_with_the_plain_trainer(door, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        options = {"radial_lambda": 0.0}
        saving = {"save_strategy": "steps", "save_steps": 2}
        trainer = make_trainer(door, tmp_path / "ours", options, model=Unknown(), **saving)
        trainer.train()
    assert caplog.text.count("no radii are measured: no site found") == 1
    trainer.train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-2"))
    twin = plain(tmp_path / "plain", Unknown(), token_rows(32, True))
    same_training(trainer, twin)
    for ours, theirs in zip(training_logs(trainer), training_logs(twin), strict=True):
        assert ours.keys() == theirs.keys()
    record = json.loads((tmp_path / "ours" / "run.json").read_text())
    assert record["radial"]["sites"] == [] and record["radial"]["variant"] == "none"
    if door == "trainer":
        assert "no radii were measured" in write_model_card(trainer).read_text()


@pytest.mark.parametrize("weight", [0.1, None])
@pytest.mark.parametrize("door", DOORS)
def test_with_a_penalty_a_model_without_known_sites_is_refused(door, weight, tmp_path):
    """So is one whose sites the user names wrongly, with or without a penalty."""
    options = {"radial_lambda": 0.0, "radial_sites": ["*.nowhere"]} if weight is None else {"radial_lambda": weight}
    with pytest.raises(ValueError, match=r"no site found|matches no module"):
        make_trainer(door, tmp_path, options, model=Unknown()).train()


def test_a_lambda_that_a_search_sets_is_not_overlooked(tmp_path):
    trainer = make_trainer("trainer", tmp_path, {"radial_lambda": None}, model=Unknown(), radial_lambda=0.0)
    trainer.args.radial_lambda = 0.1
    with pytest.raises(ValueError, match="no site found"):
        trainer.train()


@pytest.mark.parametrize("door", DOORS)
def test_reentrant_checkpointing(door, tmp_path, caplog):
    args = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    trainer = make_trainer(door, tmp_path, {"radial_lambda": 0.0}, **args)
    trainer.train()
    assert "no radii are measured: gradient_checkpointing_kwargs" in caplog.text.replace("activation", "gradient")
    same_training(trainer, plain(tmp_path, tiny_gpt2(), token_rows(32, True), **args))


@pytest.mark.parametrize("door", DOORS)
def test_a_model_that_is_all_frozen_fails_as_with_the_plain_trainer_and_a_warning_says_why(door, tmp_path, caplog):
    frozen = [tiny_gpt2().requires_grad_(False) for _ in range(2)]
    trainer = make_trainer(door, tmp_path / "ours", {"radial_lambda": 0.0}, model=frozen[0])
    with pytest.raises(RuntimeError, match="does not require grad") as ours:
        trainer.train()
    assert "no radii are measured: every parameter of GPT2LMHeadModel is frozen" in caplog.text
    with pytest.raises(RuntimeError) as theirs:
        plain(tmp_path / "plain", frozen[1], token_rows(32, True))
    assert str(ours.value) == str(theirs.value)


def test_several_gpus_in_one_process(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    assert make_trainer("trainer", tmp_path, {"radial_lambda": 0.0}).radial_penalty is None
    assert "DataParallel" in caplog.text


@pytest.mark.parametrize("door", DOORS)
def test_batches_whose_vectors_cannot_be_counted_beforehand(door, tmp_path):
    """They are counted in the step: two micro-batches train as one of twice the size."""
    several = {"gradient_accumulation_steps": 2}
    split = make_trainer(door, tmp_path, model=Odd(), rows=numbers("x"), **several)
    whole = make_trainer(door, tmp_path, model=Odd(), rows=numbers("x"), per_device_train_batch_size=8)
    for trainer in (split, whole):
        trainer.train()
    for logs, expected in zip(training_logs(split), training_logs(whole), strict=True):
        assert {n: logs[n] for n in logs if "grad_norm" not in n} == pytest.approx(
            {n: expected[n] for n in expected if "grad_norm" not in n}, rel=1e-4
        )
    trainer = make_trainer(door, tmp_path, {"radial_lambda": 0.0}, model=Odd(), rows=numbers("x"), **several)
    trainer.train()
    same_training(trainer, plain(tmp_path, Odd(), numbers("x"), **several))
    assert all(logs["radius/layers.0"] > 0 for logs in training_logs(trainer))


@pytest.mark.parametrize("door", DOORS)
def test_a_batch_that_is_a_whole_step_needs_no_count(door, tmp_path):
    trainer = make_trainer(door, tmp_path, model=Odd(), rows=numbers("x"))
    trainer.train()
    for logs in training_logs(trainer):
        assert logs["radial_penalty"] > 0 and logs["loss"] == pytest.approx(logs["task_loss"] + 0.2 * logs["radial_penalty"])


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("door", DOORS)
def test_sites_that_are_skipped_or_fit_no_mask(door, mask, tmp_path):
    rows = numbers("input_ids", mask)
    with pytest.raises((RuntimeError, ValueError), match="attention_mask has shape" if mask else "no vector was collected"):
        make_trainer(door, tmp_path, model=Skips(), rows=rows).train()
    trainer = make_trainer(door, tmp_path, {"radial_lambda": 0.0}, model=Skips(), rows=rows)
    if mask:
        with pytest.warns(UserWarning, match="not measured: .*'layers.0'"):
            trainer.train()
    else:
        trainer.train()
    same_training(trainer, plain(tmp_path, Skips(), rows))
    for logs in training_logs(trainer):
        assert ("radius/layers.0" in logs) == (not mask) and "radius/layers.2" not in logs


def test_a_training_step_of_its_own(tmp_path):
    class Mixed(RadialMixin, Bare):
        pass

    rows = token_rows(32, True)
    trainer = Mixed(model=tiny_gpt2(), args=arguments(tmp_path), train_dataset=rows, radial_lambda=0.0)
    trainer.train()
    twin = Bare(model=tiny_gpt2(), args=arguments(tmp_path, cls=TrainingArguments), train_dataset=rows)
    twin.train()
    same_training(trainer, twin)
    assert not any(f"radius/{site}" in logs for logs in training_logs(trainer) for site in SITES)


@pytest.mark.parametrize("door", DOORS)
def test_initial_radii_of_a_dataset_without_rows_to_index(door, tmp_path, caplog):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(token_rows(32, True))

    options = {"radial_lambda": 0.0, "radial_radius": "initial"}
    trainer = make_trainer(door, tmp_path, options, rows=Stream())
    trainer.train()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "radial" in record.message]
    same_training(trainer, plain(tmp_path, tiny_gpt2(), Stream()))
    assert all(logs[f"radius_target/{site}"] != pytest.approx(32**0.5) for logs in training_logs(trainer) for site in SITES)
