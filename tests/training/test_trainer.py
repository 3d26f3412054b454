"""Logs, files and restored state of `RadialTrainer` and `RadialCallback`."""

from __future__ import annotations

import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from reference import tiny_gpt2, token_rows
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback

from hf_radial import RadialCallback, RadialMixin, RadialTrainer
from hf_radial.runs.record import describe_environment
from hf_radial.training.calibration import TARGETS_FILE, targets_in
from runs import SITES, Bare, arguments, training_logs

pytestmark = pytest.mark.quick


def test_logs_are_means_over_the_window(tmp_path):
    """A log every 3 steps is the mean of the logs of every single step; `loss` is what is minimised."""

    def train(logging_steps):
        rows = token_rows(32, False)  # as many vectors in every step, so that the radii are means of means
        trainer = RadialTrainer(
            model=tiny_gpt2(), args=arguments(tmp_path, logging_steps=logging_steps), radial_lambda=0.2, train_dataset=rows
        )
        trainer.train()
        return training_logs(trainer)

    every, third = train(1), train(3)
    assert [logs["step"] for logs in third] == [3, 6]
    for window, logs in zip((every[:3], every[3:]), third, strict=True):
        for name in ("loss", "task_loss", "radial_penalty", *(f"radius/{site}" for site in SITES)):
            assert logs[name] == pytest.approx(sum(single[name] for single in window) / 3, rel=1e-5)
        assert logs["loss"] == pytest.approx(logs["task_loss"] + 0.2 * logs["radial_penalty"], rel=1e-5)
        assert all(logs[f"radius_target/{site}"] == pytest.approx(32**0.5) for site in SITES)


def test_lambda_zero_logs_the_radii_and_no_false_loss(tmp_path):
    trainer = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path), radial_lambda=0.0, train_dataset=token_rows(32, True))
    trainer.train()
    for logs in training_logs(trainer):
        assert logs["loss"] == pytest.approx(logs["task_loss"], rel=1e-6)
        assert logs["radial_penalty"] > 0 and logs["radial_lambda"] == 0
        assert all(f"radius/{site}" in logs for site in SITES)


def test_evaluation_is_the_task_alone(tmp_path):
    rows = token_rows(16, True)
    losses = []
    for weight in (0.0, 5.0):
        trainer = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path), radial_lambda=weight, train_dataset=rows)
        losses.append(trainer.evaluate(rows)["eval_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("door", ["trainer", "callback"])
def test_tensorboard_gets_every_value(door, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = arguments(tmp_path, report_to="tensorboard")
    common = {"model": tiny_gpt2(), "args": args, "train_dataset": token_rows(32, True)}
    if door == "trainer":
        trainer = RadialTrainer(**common, radial_lambda=0.2)
    else:
        trainer = Trainer(**common, callbacks=[RadialCallback(0.2)])
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events.parent))
    board.Reload()
    for name in ("loss", "task_loss", "radial_penalty", f"radius/{SITES[0]}", f"radius_target/{SITES[0]}"):
        values = [event.value for event in board.Scalars(f"train/{name}")]
        assert values == pytest.approx([logs[name] for logs in training_logs(trainer)], rel=1e-5)


def test_the_callback_leaves_the_trainer_and_the_model_as_they_were(tmp_path):
    model = tiny_gpt2()
    trainer = Trainer(
        model=model, args=arguments(tmp_path), train_dataset=token_rows(32, True), callbacks=[RadialCallback(0.2)]
    )
    for _ in range(2):  # a second train() is penalised just as the first
        trainer.train()
        assert type(trainer) is Trainer
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
        assert "radial_penalty" in training_logs(trainer)[0]


def test_the_callback_recovers_from_a_run_that_failed(tmp_path):
    class Fails(Exception):
        pass

    def collate(rows):
        if broken:
            raise Fails
        return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    broken = True
    trainer = Trainer(
        model=tiny_gpt2(),
        args=arguments(tmp_path),
        train_dataset=token_rows(32, True),
        data_collator=collate,
        callbacks=[RadialCallback(0.2)],
    )
    with pytest.raises(Fails):
        trainer.train()
    broken = False
    trainer.train()
    site = trainer.model.transformer.h[0].mlp.c_proj
    assert type(trainer) is Trainer and not site._forward_hooks


def test_the_callback_serves_other_trainers(tmp_path):
    args = arguments(tmp_path, cls=Seq2SeqTrainingArguments)
    trainer = Seq2SeqTrainer(model=tiny_gpt2(), args=args, train_dataset=token_rows(32, True), callbacks=[RadialCallback(0.2)])
    trainer.train()
    twin = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path), radial_lambda=0.2, train_dataset=token_rows(32, True))
    twin.train()
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), twin.model.parameters(), strict=True))


def test_arguments_and_keywords_say_the_same(tmp_path):
    rows, weights = token_rows(32, True), []
    for args_options, options in (
        ({"radial_lambda": 0.2, "radial_side": "above", "radial_radius": "2"}, {}),
        ({}, {"radial_lambda": 0.2, "radial_side": "above", "radial_radius": 2.0}),
    ):
        trainer = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path, **args_options), train_dataset=rows, **options)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_warm_up_is_linear_and_logged(tmp_path):
    trainer = RadialTrainer(
        model=tiny_gpt2(),
        args=arguments(tmp_path, logging_steps=1),
        radial_lambda=0.4,
        radial_warmup_steps=4,
        train_dataset=token_rows(32, True),
    )
    trainer.train()
    assert [logs["radial_lambda"] for logs in training_logs(trainer)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_initial_radii_are_kept_over_a_resume(tmp_path):
    options = {"radial_lambda": 0.4, "radial_radius": "initial", "train_dataset": token_rows(32, True)}
    whole = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path / "a", save_steps=3, save_strategy="steps"), **options)
    whole.train()
    again = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path / "a"), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert whole.radial_penalty.targets == again.radial_penalty.targets
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    (tmp_path / "a" / "checkpoint-3" / "radial_targets.json").unlink()
    with pytest.raises(ValueError, match="radial_radius='initial'"):
        again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"transformer', "radial_targets.json is not JSON; it may have been cut"),
        ("[1.0]", "radial_targets.json holds a list, not an object"),
        ('{"a": "x"}', "radial_targets.json: the radius of 'a' is 'x', which is no number of at least 0"),
        ('{"a": NaN}', "the radius of 'a' is nan"),
    ],
)
def test_initial_radii_that_cannot_be_read_are_named(content, message, tmp_path):
    (tmp_path / TARGETS_FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        targets_in(str(tmp_path))


def test_best_model_and_resume_behave_as_in_trainer(tmp_path):
    rows = token_rows(32, True)
    args = arguments(
        tmp_path, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True
    )
    trainer = RadialTrainer(model=tiny_gpt2(), args=args, radial_lambda=0.1, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    reloaded = type(trainer.model).from_pretrained(best)
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), reloaded.parameters(), strict=True))


def test_a_run_says_what_it_is_before_it_starts(tmp_path, caplog):
    trainer = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path), radial_lambda=0.1, train_dataset=token_rows(32, True))
    trainer.run_facts = {"task": "nonsense"}

    class Stop(Exception):
        pass

    def stop(*args, **kwargs):
        raise Stop

    trainer.get_train_dataloader = stop
    with caplog.at_level(logging.INFO, "transformers"), pytest.raises(Stop):
        trainer.train()
    record = json.loads((tmp_path / "run.json").read_text())
    assert [site["name"] for site in record["radial"]["sites"]] == SITES
    assert record["radial"]["radial_lambda"] == 0.1 and record["radial"]["variant"] == "paper"
    assert record["facts"] == {"task": "nonsense"}
    assert record["training_args"]["seed"] == 42
    assert record["environment"]["versions"]["torch"] == version("torch")  # without "+cpu" where the index has none
    assert all(not m._forward_hooks for m in trainer.model.modules())


def test_a_callback_taken_away_after_a_failed_run_is_gone(tmp_path):
    class Fails(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise KeyboardInterrupt

    trainer = Trainer(
        model=tiny_gpt2(),
        args=arguments(tmp_path),
        train_dataset=token_rows(32, True),
        callbacks=[RadialCallback(0.2), Fails()],
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    penalty = trainer.radial_penalty
    trainer.model.train()(**{name: torch.tensor([values]) for name, values in token_rows(1, False)[0].items()})
    assert not penalty._collected  # outside of training steps nothing is kept
    trainer.remove_callback(RadialCallback)
    trainer.remove_callback(Fails)
    trainer.state.log_history.clear()
    trainer.train()
    assert not any("radial_penalty" in logs for logs in trainer.state.log_history)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in trainer.model.modules())


def test_a_training_step_of_its_own_that_would_drop_the_penalty_is_refused(tmp_path):
    class Mixed(RadialMixin, Bare):
        pass

    trainer = Mixed(model=tiny_gpt2(), args=arguments(tmp_path), train_dataset=token_rows(32, True), radial_lambda=0.1)
    with pytest.raises(RuntimeError, match=r"accelerator\.backward"):
        trainer.train()


def test_options_set_in_args_before_train_count_as_a_search_sets_them(tmp_path):
    trainer = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path, radial_lambda=0.1), train_dataset=token_rows(32, True))
    trainer.args.radial_lambda = 0.7
    trainer.train()
    assert training_logs(trainer)[0]["radial_lambda"] == pytest.approx(0.7)


def test_the_logged_lambda_is_the_mean_over_the_window(tmp_path):
    options = {"radial_lambda": 0.4, "radial_warmup_steps": 4, "train_dataset": token_rows(32, True)}
    trainer = RadialTrainer(model=tiny_gpt2(), args=arguments(tmp_path, gradient_accumulation_steps=2), **options)
    trainer.train()
    assert [logs["radial_lambda"] for logs in training_logs(trainer)] == pytest.approx([0.15, 0.35, 0.4])


def test_the_trainer_checkpoints_activations_as_without(tmp_path):
    weights = []
    for checkpointing in (False, True):
        options = {"gradient_checkpointing": checkpointing, "gradient_accumulation_steps": 2}
        trainer = RadialTrainer(
            model=tiny_gpt2(), args=arguments(tmp_path, **options), radial_lambda=0.3, train_dataset=token_rows(32, True)
        )
        trainer.train()
        weights.append((trainer.model.state_dict(), training_logs(trainer)))
    assert weights[0][1] == [pytest.approx(logs) for logs in weights[1][1]]
    for name, tensor in weights[0][0].items():
        torch.testing.assert_close(weights[1][0][name], tensor)


def test_a_token_on_the_command_line_is_not_recorded(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--hub_token", "hf_secret", "--hub_token=hf_secret", "--seed", "1"])
    assert describe_environment()["command"] == "train.py --hub_token '***' '--hub_token=***' --seed 1"
