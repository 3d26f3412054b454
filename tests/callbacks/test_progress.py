"""The bar shows the newest metric."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from hf_radial.callbacks.progress import MetricProgress, show_accuracies


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)


def test_the_bar_shows_both_metrics_and_a_resumed_run_what_it_had(args, capsys):
    state = TrainerState(max_steps=10, log_history=[{"step": 5, "eval_train_exact_match": 0.25}])
    state.is_world_process_zero = True
    progress = MetricProgress({"held-out": "eval_validation_exact_match", "train": "eval_train_exact_match"}, title="arm")
    control = TrainerControl()
    progress.on_train_begin(args, state, control)
    assert "train=25.0%" in capsys.readouterr().err
    progress.on_evaluate(args, state, control, metrics={"eval_validation_exact_match": 0.5})
    shown = capsys.readouterr().err
    assert "arm" in shown and "train=25.0%" in shown and "held-out=50.0%" in shown
    progress.on_train_end(args, state, control)


def test_the_loss_is_on_the_bar_and_no_log_is_printed(args, capsys):
    state = TrainerState(max_steps=10)
    state.is_world_process_zero = True
    progress = MetricProgress({"held-out": "eval_validation_exact_match"}, title="arm")
    progress.on_train_begin(args, state, TrainerControl())
    progress.on_log(args, state, TrainerControl(), logs={"loss": 2.5, "task_loss": 1.23456, "radius/layer": 3.0})
    progress.on_log(args, state, TrainerControl(), logs={"eval_validation_exact_match": 0.5})
    said = capsys.readouterr()
    assert "loss=1.235" in said.err and "radius" not in said.err + said.out and not said.out


def test_a_notebook_has_one_bar_too(args, monkeypatch):
    from transformers.utils.notebook import NotebookProgressCallback

    monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", NotebookProgressCallback)
    monkeypatch.setattr("hf_radial.callbacks.progress.DEFAULT_PROGRESS_CALLBACK", NotebookProgressCallback)
    trainer = Trainer(model=nn.Linear(2, 2), args=args)
    show_accuracies(trainer, title="arm")
    bars = [one for one in trainer.callback_handler.callbacks if isinstance(one, (ProgressCallback, NotebookProgressCallback))]
    assert [type(bar) for bar in bars] == [MetricProgress]
