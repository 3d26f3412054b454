"""A resumed run ends like an unbroken one, with trainer and callback, and with callbacks restored or not."""

from __future__ import annotations

import copy
import functools
import json
import shutil

import pytest
import torch
from reference import tiny_gpt2, token_rows
from transformers import Trainer, TrainerCallback

from hf_radial import RadialCallback
from hf_radial.sites.hooks import Hook
from runs import DOORS, SITES, arguments, make_trainer, training_logs


def live_hooks(model):
    return [sum(isinstance(h, Hook) for h in model.get_submodule(site)._forward_hooks.values()) for site in SITES]


class CountHooks(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(live_hooks(model))


def by_parity(step):
    return float(1 + step % 2)


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


OPTIONS = {
    "plain": {},
    "all": {
        "radial_lambda": 0.7,
        "radial_radius": 3.0,
        "radial_side": "above",
        "radial_warmup_steps": 2,
        "radial_sites": [*SITES],
        "radial_schedule": "cosine",
    },
    "initial": {"radial_radius": "initial"},
    "function": {"radial_schedule": by_parity},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("door", DOORS)
def test_a_resumed_run_ends_as_an_unbroken_one(door, restore, options, tmp_path):
    whole = make_trainer(door, tmp_path, OPTIONS[options], save_strategy="steps", save_steps=2, logging_steps=1)
    whole.train()
    count = CountHooks()
    resumed = make_trainer(
        door,
        tmp_path,
        OPTIONS[options],
        callbacks=[count],
        logging_steps=1,
        restore_callback_states_from_checkpoint=restore,
        save_strategy="steps",
        save_steps=2,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert count.seen == [[1] * len(SITES)] * 4
    assert live_hooks(resumed.model) == [0] * len(SITES)
    callbacks = [c for c in resumed.callback_handler.callbacks if isinstance(c, RadialCallback)]
    assert len(callbacks) == (door == "callback") and all(c.trainer is None for c in callbacks)
    assert training_logs(resumed) == training_logs(whole)
    assert same_weights(whole, resumed)
    again = make_trainer(door, tmp_path, OPTIONS[options], restore_callback_states_from_checkpoint=restore)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))  # which the resumed run wrote
    assert same_weights(whole, again)


def test_restored_options_are_those_of_the_checkpoint(tmp_path):
    make_trainer("callback", tmp_path, OPTIONS["all"], save_strategy="steps", save_steps=3).train()
    for restore in (True, False):
        trainer = make_trainer("callback", tmp_path, {"radial_lambda": 0.5}, restore_callback_states_from_checkpoint=restore)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        (callback,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, RadialCallback))
        assert callback.config == RadialCallback(**(OPTIONS["all"] if restore else {"radial_lambda": 0.5})).config


def test_the_state_is_json_and_makes_the_callback_again():
    callback = RadialCallback(**OPTIONS["all"])
    state = json.loads(json.dumps(callback.state()))
    assert RadialCallback.from_state(state).config == callback.config


class Object:
    def __call__(self, step):
        return 1.0


@pytest.mark.parametrize("schedule", [lambda step: 1.0, functools.partial(by_parity), Object()])
def test_a_schedule_whose_name_does_not_tell_it_is_not_restored(schedule, tmp_path):
    options = {"radial_schedule": schedule}
    whole = make_trainer("callback", tmp_path, options, save_strategy="steps", save_steps=3)
    whole.train()
    resumed = make_trainer("callback", tmp_path, options, restore_callback_states_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"radial_schedule: .* cannot be restored.*defined by name"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    plain = make_trainer("callback", tmp_path, options)
    plain.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same_weights(whole, plain)


def test_a_function_is_not_restored_where_another_schedule_was_given(tmp_path):
    make_trainer("callback", tmp_path, OPTIONS["function"], save_strategy="steps", save_steps=3).train()
    for given in ("cosine", abs):
        resumed = make_trainer("callback", tmp_path, {"radial_schedule": given}, restore_callback_states_from_checkpoint=True)
        with pytest.raises(ValueError, match=r"radial_schedule: .*'test_resume.by_parity', which cannot be restored"):
            resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_checkpoint_without_initial_radii_is_refused(tmp_path):
    make_trainer("callback", tmp_path, save_strategy="steps", save_steps=3).train()
    for restore in (False, True):  # with the flag, the checkpoint's target is restored
        trainer = make_trainer("callback", tmp_path, OPTIONS["initial"], restore_callback_states_from_checkpoint=restore)
        if restore:
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        else:
            with pytest.raises(ValueError, match="radial_radius='initial': the checkpoint does not hold"):
                trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert type(trainer) is Trainer and live_hooks(trainer.model) == [0] * len(SITES)


@pytest.mark.parametrize("restore", [False, True])
def test_a_plain_run_can_go_on_with_the_callback(restore, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "restore_callback_states_from_checkpoint": restore}
    Trainer(model=tiny_gpt2(), args=arguments(tmp_path, **saving), train_dataset=token_rows(32, True)).train()
    for folder in tmp_path.glob("checkpoint-[46]"):
        shutil.rmtree(folder)
    trainer = make_trainer("callback", tmp_path, **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["RadialCallback"]["args"]["radial_lambda"] == 0.2


def test_initial_radii_move_from_the_callback_to_the_trainer(tmp_path):
    whole = make_trainer("callback", tmp_path, OPTIONS["initial"], save_strategy="steps", save_steps=3)
    whole.train()
    resumed = make_trainer("trainer", tmp_path, OPTIONS["initial"])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same_weights(whole, resumed)


@pytest.mark.parametrize("door", DOORS)
def test_one_trainer_interrupted_and_resumed_with_restored_callbacks(door, tmp_path):
    class Once(TrainerCallback):
        done = False

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5 and not self.done:
                self.done = True
                raise KeyboardInterrupt

    options = {"save_strategy": "steps", "save_steps": 2, "restore_callback_states_from_checkpoint": True}
    whole = make_trainer(door, tmp_path / "whole", **options)
    whole.train()
    count = CountHooks()
    trainer = make_trainer(door, tmp_path / "broken", callbacks=[Once(), count], model=copy.deepcopy(tiny_gpt2()), **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert live_hooks(trainer.model) == [0] * len(SITES)
    trainer.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-4"))
    assert count.seen == [[1] * len(SITES)] * 6
    assert same_weights(whole, trainer)
