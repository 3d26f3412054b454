"""`GrokkingCallback` in real runs: its log and its stop in unbroken, killed and resumed runs, and no other changes."""

from __future__ import annotations

import copy
import json
import logging
import math
import random

import pytest
import torch
from scripted import HELD_OUT, TRAIN, announced, scripted, slow_announcements
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import get_last_checkpoint
from two_processes import launch

from hf_radial import GrokkingCallback, RadialArguments, RadialCallback, RadialTrainer
from hf_radial.callbacks.progress import MetricProgress
from hf_radial.runs.onset import summarise

METRICS = (TRAIN, HELD_OUT)
MEMORISES = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
GENERALISES = [0.0, 0.1, 0.95, 0.5, 0.91, 0.93, 0.99, 1.0, 1.0]
TIMES = ("runtime", "per_second", "train_loss", "total_flos")


def without_times(log_history):
    return [{k: v for k, v in e.items() if not k.endswith(TIMES)} for e in log_history if "train_runtime" not in e]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def values(rng, length):
    return [rng.choice([0.1, 0.89, 0.9, 0.95, 0.99, 1.0, 1.0, math.nan]) for _ in range(length)]


class Watch(TrainerCallback):
    """After each event of an evaluation: the live summary is that of the log so far."""

    def __init__(self, grokking):
        self.grokking, self.checked = grokking, 0

    def on_evaluate(self, args, state, control, **kwargs):
        if all(any(name in logs for logs in state.log_history) for name in METRICS):
            threshold = self.grokking.threshold
            assert repr(self.grokking.summary) == repr(summarise(state.log_history, *METRICS, (threshold, 0.99)))
            self.checked += 1
        else:
            assert self.grokking.summary is None


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(8))
def test_it_says_what_happens_when_it_happens_and_stops_there(seed, tmp_path):
    rng = random.Random(seed)
    train, held_out = values(rng, 12), values(rng, 12)
    options = rng.choice(
        [
            {},
            {"stop_evaluations": 2},
            {"stop_evaluations": 3, "stop_threshold": 0.95},
            {"stop_evaluations": 1, "threshold": 1.0},
        ]
    )
    grokking = GrokkingCallback(*METRICS, **options)
    assert grokking.summary is None
    watch = Watch(grokking)
    splits = rng.sample(["train", "validation"], 2)
    trainer = scripted(tmp_path, train, held_out, [grokking, watch], splits=splits)
    trainer.train()
    expected, end = slow_announcements(
        train, held_out, options.get("threshold", 0.9), 0.99, options.get("stop_evaluations"), options.get("stop_threshold")
    )
    assert trainer.state.global_step == end
    assert sorted(announced(trainer.state.log_history)) == sorted(expected)
    assert watch.checked >= end
    json.dumps(grokking.summary)


@pytest.mark.parametrize(("base", "restore"), [(Trainer, False), (Trainer, True), (RadialTrainer, True)])
def test_a_run_resumed_anywhere_says_and_does_what_an_unbroken_one_does(base, restore, tmp_path):
    def make(folder, **args):
        cls, extra = (RadialArguments, {"radial_lambda": 0.1}) if base is RadialTrainer else (None, {})
        options = {"save_strategy": "steps", "save_steps": 1, "restore_callback_states_from_checkpoint": restore, **args}
        options |= {} if cls is None else {"cls": cls}
        callback = GrokkingCallback(*METRICS, stop_evaluations=3)
        return scripted(folder, MEMORISES, GENERALISES, [callback], base, extra=extra, **options), callback

    whole, grokking = make(tmp_path / "whole")
    whole.train()
    assert whole.state.global_step == 7
    said = announced(whole.state.log_history)
    assert said == [
        (2, "grokking/fit_step", 2),
        (3, "grokking/onset_step", 3),
        (4, "grokking/onset_lost_step", 4),
        (5, "grokking/onset_step", 5),
    ]
    # 5 steps make an epoch: 2, 3 are within, 5 is at the end of one, 7 is where the run had stopped.
    for step in (2, 3, 5, 7):
        resumed, again = make(tmp_path / f"from{step}", save_strategy="no")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert resumed.state.global_step == 7
        assert without_times(resumed.state.log_history) == without_times(whole.state.log_history)
        assert again.summary == grokking.summary
        assert same_weights(whole, resumed)
        assert "get_batch_samples" not in vars(resumed)
        resumed.train()  # from the start: nothing of the last run may be left
        assert resumed.state.global_step == 7 and announced(resumed.state.log_history) == said


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_a_run_that_stopped_at_the_end_of_an_epoch_makes_no_further_step(strategy, tmp_path):
    def make(**args):
        grokking = GrokkingCallback(*METRICS, stop_evaluations=2)
        return scripted(
            tmp_path, [1.0] * 20, [0.9] * 20, [grokking], eval_strategy=strategy, eval_steps=5, save_strategy=strategy, **args
        )

    whole = make(save_steps=5)
    whole.train()
    assert whole.state.global_step == 10
    for flag in (False, True):
        resumed = make(save_steps=5, eval_on_start=flag)
        resumed.train(resume_from_checkpoint=get_last_checkpoint(str(tmp_path)))
        assert resumed.state.global_step == 10 and same_weights(whole, resumed)
        assert announced(resumed.state.log_history) == announced(whole.state.log_history)


def test_a_run_that_was_interrupted_goes_on_in_the_same_trainer(tmp_path):
    class Once(TrainerCallback):
        done = False

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6 and not self.done:
                self.done = True
                raise KeyboardInterrupt

    options = {"save_strategy": "steps", "save_steps": 2}
    whole = scripted(tmp_path / "whole", MEMORISES, GENERALISES, [GrokkingCallback(*METRICS, stop_evaluations=3)], **options)
    whole.train()
    grokking = GrokkingCallback(*METRICS, stop_evaluations=3)
    trainer = scripted(tmp_path / "broken", MEMORISES, GENERALISES, [Once(), grokking], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert without_times(trainer.state.log_history) == without_times(whole.state.log_history)
    assert trainer.state.global_step == 7 and same_weights(whole, trainer)


def test_an_evaluation_that_is_repeated_at_the_start_counts_once(tmp_path):
    """With eval_on_start, 0.91 at step 5 would otherwise be two evaluations in a row."""
    options = {"save_strategy": "steps", "save_steps": 5}
    for folder, held_out, end in (("stops", GENERALISES, 6), ("goes on", [*GENERALISES[:5], 0.5, 0.5, 0.9, 0.9], 9)):
        trainer = scripted(tmp_path / folder, MEMORISES, held_out, [GrokkingCallback(*METRICS, stop_evaluations=2)], **options)
        trainer.train()
        resumed = scripted(
            tmp_path / folder, MEMORISES, held_out, [GrokkingCallback(*METRICS, stop_evaluations=2)], eval_on_start=True
        )
        resumed.train(resume_from_checkpoint=str(tmp_path / folder / "checkpoint-5"))
        assert trainer.state.global_step == resumed.state.global_step == end
        assert announced(trainer.state.log_history) == announced(resumed.state.log_history)


def test_a_plain_run_can_go_on_with_the_callback(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4, "restore_callback_states_from_checkpoint": True}
    scripted(tmp_path, MEMORISES, GENERALISES, **options).train()
    trainer = scripted(tmp_path, MEMORISES, GENERALISES, [GrokkingCallback(*METRICS)], **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert announced(trainer.state.log_history) == [(5, "grokking/fit_step", 2), (5, "grokking/onset_step", 5)]


def test_best_model_early_stopping_bar_and_weights_are_left_alone(tmp_path, capsys):
    def run(folder, *callbacks):
        options = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True, "disable_tqdm": False}
        options |= {"metric_for_best_model": HELD_OUT, "save_total_limit": 1}
        bar = MetricProgress({"held-out": HELD_OUT, "train": TRAIN})
        held_out = [0.1, 0.5, 0.95, 0.94, 0.5, 0.93, 0.92, 1.0, 1.0]
        trainer = scripted(folder, MEMORISES, held_out, [*callbacks, bar], **options)
        # By split, the metric of the best model is missing in every other event: transformers' own early stopping cannot know.
        trainer.add_callback(EarlyStopping(early_stopping_patience=4))
        trainer.train()
        return trainer

    class EarlyStopping(EarlyStoppingCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            if HELD_OUT in metrics:
                super().on_evaluate(args, state, control, metrics, **kwargs)

    plain, watched = run(tmp_path / "plain"), run(tmp_path / "watched", GrokkingCallback(*METRICS))
    assert "held-out=92.0%" in capsys.readouterr().err
    assert plain.state.global_step == watched.state.global_step == 7  # three worse than the third
    assert plain.state.best_global_step == watched.state.best_global_step == 3
    assert plain.state.best_metric == watched.state.best_metric == 0.95
    assert same_weights(plain, watched)
    rest = [e for e in watched.state.log_history if not any(name.startswith("grokking/") for name in e)]
    assert len(rest) == len(watched.state.log_history) - 4
    assert without_times(rest) == without_times(plain.state.log_history)


def test_both_callbacks_of_this_package_work_on_one_trainer(tmp_path):
    for order in (1, -1):
        callbacks = [RadialCallback(radial_lambda=0.1), GrokkingCallback(*METRICS, stop_evaluations=3)]
        trainer = scripted(tmp_path, MEMORISES, GENERALISES, callbacks[::order])
        trainer.train()
        assert trainer.state.global_step == 7 and len(announced(trainer.state.log_history)) == 4
        assert type(trainer) is Trainer


def test_tensorboard_has_it_and_the_logger_too(tmp_path, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = scripted(
        tmp_path, MEMORISES, GENERALISES, [GrokkingCallback(*METRICS, stop_evaluations=3)], report_to="tensorboard"
    )
    with caplog.at_level(logging.INFO, logger="hf_radial"):
        trainer.train()
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/grokking/onset_step")] == [(3, 3.0), (5, 5.0)]
    assert [(e.step, e.value) for e in events.Scalars("train/grokking/fit_step")] == [(2, 2.0)]
    said = [record.getMessage() for record in caplog.records if "grokking:" in record.getMessage()]
    assert [text.split(" ", 1)[1] for text in said] == [
        "eval_train_accuracy reached 0.99 at step 2",
        "eval_validation_accuracy is at or above 0.9 from step 3 on",
        "eval_validation_accuracy fell below 0.9: step 3 was no onset",
        "eval_validation_accuracy is at or above 0.9 from step 5 on",
        "eval_validation_accuracy was at 0.9 or above 3 times in a row: stop",
    ]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((TRAIN, "eval_valid_accuracy"), r"held_out_metric='eval_valid_accuracy' .*did you mean 'eval_validation_accuracy'"),
        (("train_accuracy", HELD_OUT), r"train_metric='train_accuracy' .*did you mean 'eval_train_accuracy'"),
        ((TRAIN, "x"), r"held_out_metric='x' .*The log has the evaluation metrics: eval_train_accuracy, .*eval_validation_acc"),
    ],
)
def test_a_metric_that_never_comes_is_an_error_before_the_next_step(names, message, tmp_path):
    trainer = scripted(tmp_path, MEMORISES, GENERALISES, [GrokkingCallback(*names)])
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 1
    first = scripted(tmp_path, MEMORISES, GENERALISES, [GrokkingCallback(*names)], eval_on_start=True)
    with pytest.raises(ValueError, match=message):
        first.train()
    assert first.state.global_step == 0


def test_after_the_last_step_a_missing_metric_is_a_warning_and_the_model_is_kept(tmp_path, caplog):
    trainer = scripted(tmp_path, [1.0], [1.0], [GrokkingCallback("eval_trian_accuracy", HELD_OUT)])
    with caplog.at_level(logging.WARNING, logger="hf_radial"):
        trainer.train()
    assert "did you mean 'eval_train_accuracy'" in caplog.text and trainer.state.global_step == 1


def test_a_run_without_evaluation_is_warned_of(tmp_path, caplog):
    grokking = GrokkingCallback(*METRICS)
    with caplog.at_level(logging.WARNING, logger="hf_radial"):
        scripted(tmp_path, [1.0], [1.0], [grokking], eval_strategy="no").train()
    assert "eval_strategy='no'" in caplog.text and grokking.summary is None


def test_percentages_are_refused(tmp_path):
    trainer = scripted(tmp_path, [50.0] * 3, [10.0] * 3, [GrokkingCallback(*METRICS)])
    with pytest.raises(ValueError, match=r"metric='eval_train_accuracy' is 50 at step 1.*percentage"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_evaluations_outside_of_training_and_of_other_rows_are_not_its_business(tmp_path):
    class Elsewhere(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:  # before the first evaluation of the run itself
                trainer.evaluate(trainer.eval_dataset["validation"], metric_key_prefix="test")

    grokking = GrokkingCallback(*METRICS)
    trainer = scripted(tmp_path, [1.0] * 4, [0.1, 0.1, 0.95, 0.95], [Elsewhere(), grokking], eval_steps=2)
    trainer.evaluate()
    assert announced(trainer.state.log_history) == []
    trainer.train()
    said, summary = announced(trainer.state.log_history), copy.deepcopy(grokking.summary)
    assert said == [(2, "grokking/fit_step", 2)] and summary["onset_90"] is None
    trainer.evaluate()
    assert announced(trainer.state.log_history) == said and grokking.summary == summary


def test_two_of_them_need_two_prefixes(tmp_path):
    one = GrokkingCallback(*METRICS, stop_evaluations=3)
    with pytest.raises(ValueError, match="two GrokkingCallbacks have the prefix 'grokking'"):
        scripted(tmp_path, MEMORISES, GENERALISES, [one, GrokkingCallback(*METRICS)]).train()
    strict = GrokkingCallback(*METRICS, threshold=0.99, prefix="strict")
    trainer = scripted(tmp_path, MEMORISES, GENERALISES, [one, strict])
    trainer.train()
    assert len(announced(trainer.state.log_history)) == 4
    assert announced(trainer.state.log_history, "strict") == [(2, "strict/fit_step", 2), (7, "strict/onset_step", 7)]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_evaluations": 0}, "stop_evaluations=0"),
        ({"stop_evaluations": 2.5}, "stop_evaluations=2.5"),
        ({"stop_evaluations": True}, "stop_evaluations=True"),
        ({"stop_threshold": 0.99}, "needs stop_evaluations"),
        ({"stop_threshold": 99, "stop_evaluations": 3}, "stop_threshold=99 .*0.9"),
        ({"threshold": 90}, "threshold=90"),
        ({"fit_threshold": 0.0}, "fit_threshold=0.0"),
        ({"held_out_metric": TRAIN}, "are both 'eval_train_accuracy'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GrokkingCallback(**{"train_metric": TRAIN, "held_out_metric": HELD_OUT, **options})


def test_without_a_trainer_it_says_so(tmp_path):
    with pytest.raises(RuntimeError, match=r"must be called by a transformers\.Trainer"):
        GrokkingCallback().on_evaluate(None, TrainerState(), TrainerControl(), metrics={})


def test_two_processes_stop_together_and_one_speaks(tmp_path):
    launch("grokking_worker.py", str(tmp_path))
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["step"] for rank in ranks] == [7, 7]
    assert ranks[0]["announced"] == ranks[1]["announced"] and len(ranks[0]["announced"]) == 4
    assert ranks[0]["summary"] == ranks[1]["summary"]
    assert (ranks[0]["spoken"], ranks[1]["spoken"]) == (5, 0)
    # Resumed at the step where the run had stopped: neither makes a step, and neither waits for the other.
    assert [rank["resumed_step"] for rank in ranks] == [7, 7]
