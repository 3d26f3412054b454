"""The bar shows the newest metric; training stops when the metric stays where it should."""

from __future__ import annotations

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_radial.callbacks.progress import MetricProgress, StopWhenSolved


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


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ([0.99, 0.99], False),
        ([0.99, 0.99, 0.99], True),
        ([0.99, 0.99, 0.5, 0.99, 0.99], False),
        ([0.1, 0.99, 1.0, 0.995], True),
    ],
)
def test_training_stops_after_three_in_a_row(args, values, stops):
    state = TrainerState(log_history=[{"step": i, "eval_x": value} for i, value in enumerate(values)])
    control = StopWhenSolved("eval_x", 0.99, 3).on_evaluate(args, state, TrainerControl())
    assert control.should_training_stop is stops


def test_a_number_of_evaluations_below_one_is_refused():
    with pytest.raises(ValueError, match="evaluations=0"):
        StopWhenSolved("eval_x", 0.99, 0)
