"""Outside of training steps nothing is computed or kept. A failure leaves no hook and no value."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import weakref

import pytest
import torch
from reference import stack, tiny_gpt2, token_rows
from safetensors.torch import load_file
from test_resume import live_hooks
from transformers import Seq2SeqTrainer, Trainer, TrainerCallback

from hf_radial import RadialMixin, RadialPenalty
from hf_radial.penalty import radial_penalty as regularizer
from runs import DOORS, SITES, make_trainer, training_logs

WITHOUT = [0] * len(SITES)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def measured(monkeypatch):
    """Weak references to every radius that was computed."""
    found = []

    def spy_on(function):
        def spy(*args):
            result = function(*args)
            found.append(weakref.ref(result[1] if isinstance(result, tuple) else result))
            return result

        return spy

    for name in ("radius", "with_radius"):
        monkeypatch.setattr(regularizer, name, spy_on(getattr(regularizer, name)))
    return found


class RadialSeq2SeqTrainer(RadialMixin, Seq2SeqTrainer):
    pass


class During(TrainerCallback):
    """Calls a function in the middle of training, while the hooks are there."""

    def __init__(self, call):
        self.call = call

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            assert live_hooks(model) == [1] * len(SITES)
            self.call(model)


@pytest.mark.parametrize("door", DOORS)
def test_evaluation_prediction_and_generation_cost_nothing(door, measured, tmp_path):
    rows, logged = token_rows(8, True), []

    def everything(model):
        before = len(measured)
        training = model.training
        logged.extend([trainer.evaluate(rows), trainer.predict(rows).metrics])
        model.eval()
        model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False)
        with torch.no_grad():
            model.train()(**stack(rows))
        model(**stack(rows)).loss.backward()  # in training mode, but in no training step
        model.zero_grad()
        model.train(training)
        assert len(measured) == before
        gc.collect()
        assert not any(reference() is not None for reference in measured)

    trainer = make_trainer(door, tmp_path, eval_rows=rows, callbacks=[During(everything)], eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert len(measured) == 6 * len(SITES)  # the training steps, and nothing else
    logged.extend([trainer.evaluate(), trainer.predict(rows).metrics])
    assert len(measured) == 6 * len(SITES)
    logged.extend(logs for logs in trainer.state.log_history if any(name.startswith("eval_") for name in logs))
    assert not any("radi" in name or "task_loss" in name for logs in logged for name in logs)


def test_generation_in_an_evaluation_costs_nothing(measured, tmp_path):
    from transformers import GenerationConfig, Seq2SeqTrainingArguments

    rows = token_rows(8, False)
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        predict_with_generate=True,
        generation_config=GenerationConfig(max_new_tokens=2, do_sample=False),
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = RadialSeq2SeqTrainer(model=tiny_gpt2(), args=args, train_dataset=rows, eval_dataset=rows, radial_lambda=0.1)
    trainer.train()
    assert len(measured) == 2 * len(SITES)


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_kept_from_step_to_step(door, measured, tmp_path):
    alive = []

    class Count(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            gc.collect()
            alive.append(sum(reference() is not None for reference in measured))

    make_trainer(door, tmp_path, callbacks=[Count()], gradient_accumulation_steps=2).train()
    assert alive == [0] * 6 and len(measured) == 12 * len(SITES)


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["block", "after the sites", "loss"])
@pytest.mark.parametrize("door", DOORS)
def test_a_failure_in_the_middle_of_an_accumulation(door, place, error, measured, tmp_path):
    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # the second micro-batch of the second step
            raise error
        return forward(*args, **kwargs)

    calls, model = [], tiny_gpt2()
    if place == "loss":
        module, name = model, "_loss_function"
        forward, model.loss_function = model.loss_function, fail
    else:
        module, name = model.transformer.h[1].mlp if place == "block" else model.lm_head, "forward"
        forward, module.forward = module.forward, fail
    trainer = make_trainer(door, tmp_path, model=model, gradient_accumulation_steps=2, logging_steps=1)
    with pytest.raises(error):
        trainer.train()
    assert hooks(model) == 0 and (door == "trainer" or type(trainer) is Trainer)
    assert "backward" not in vars(trainer.accelerator)
    assert not trainer.radial_penalty._collected and trainer.radial_penalty._radii == []
    gc.collect()
    assert not any(reference() is not None for reference in measured)
    trainer.log({"loss": 1.0})  # nothing stale joins it
    assert set(trainer.state.log_history[-1]) == {"loss", "epoch", "step"}
    # And the next run is as that of a new trainer from the same weights.
    model.zero_grad()
    delattr(module, name)
    twin = make_trainer(door, tmp_path, model=copy.deepcopy(model), gradient_accumulation_steps=2, logging_steps=1)
    for run in (trainer, twin):
        run.optimizer = run.lr_scheduler = None
        run.train()
    for ours, theirs in zip(training_logs(trainer), training_logs(twin), strict=True):
        assert ours == theirs


BEFORE_THE_FIRST_EPOCH = ("on_train_begin", "on_epoch_begin")


@pytest.mark.parametrize("event", [*BEFORE_THE_FIRST_EPOCH, "on_step_end", "on_evaluate", "on_epoch_end", "on_train_end"])
@pytest.mark.parametrize("door", DOORS)
def test_a_failure_in_another_callback(door, event, tmp_path):
    """Before the first epoch a callback cannot be told of it: then the hooks stay, asleep, until the next `train()`."""

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    broken = TrainerCallback()
    setattr(broken, event, fail)
    trainer = make_trainer(
        door, tmp_path, callbacks=[broken], eval_rows=token_rows(8, True), eval_strategy="steps", eval_steps=2
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    if door == "callback" and event in BEFORE_THE_FIRST_EPOCH:
        trainer.model.train()(**stack(token_rows(2, False)))
        assert not trainer.radial_penalty._collected
    else:
        assert hooks(trainer.model) == 0
    trainer.remove_callback(broken)
    trainer.train()
    assert hooks(trainer.model) == 0 and training_logs(trainer)[-1]["radial_penalty"] > 0


@pytest.mark.parametrize("door", DOORS)
def test_each_trial_of_a_search_for_the_batch_size_starts_fresh(door, tmp_path):
    class TooMuch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(live_hooks(kwargs["model"]))
            if state.train_batch_size > 4:
                raise RuntimeError("CUDA out of memory.")

    seen = []
    options = {"auto_find_batch_size": True, "per_device_train_batch_size": 5, "logging_steps": 1, "max_steps": 3}
    trainer = make_trainer(door, tmp_path, callbacks=[TooMuch()], **options)
    trainer.train()
    assert seen == [[1] * len(SITES)] * 4 and live_hooks(trainer.model) == WITHOUT
    # A log is of its own step alone: nothing of the step that failed is in the first.
    for logs in training_logs(trainer):
        assert logs["loss"] == pytest.approx(logs["task_loss"] + 0.2 * logs["radial_penalty"], rel=1e-5)


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_a_loop_of_ones_own_that_fails(error, measured):
    model, batch = tiny_gpt2().train(), stack(token_rows(4, True))

    def fail(*args, **kwargs):
        raise error

    with pytest.raises(error), RadialPenalty(model, 0.1) as penalty:
        model(**batch)  # a first micro-batch, collected
        model.transformer.h[1].mlp.forward = fail
        model(**batch)
    assert hooks(model) == 0 and not penalty._collected and penalty._radii == [] and penalty._masks == {}
    gc.collect()
    assert not any(reference() is not None for reference in measured)


class Collator:
    """Holds the model, as a collator that asks it for its decoder's inputs does."""

    def __init__(self, model):
        self.model = model

    def __call__(self, rows):
        return stack(rows)


def test_copies_pickles_and_files_made_while_training_are_those_of_a_plain_model(tmp_path):
    made = {}

    def make(door):
        def call(model):
            model.save_pretrained(tmp_path / door)
            saved = io.BytesIO()
            torch.save(model.state_dict(), saved)
            copies = [
                copy.deepcopy(model),
                pickle.loads(pickle.dumps(model)),
                pickle.loads(pickle.dumps(Collator(model))).model,  # what a worker process of a DataLoader is sent
            ]
            made[door] = (model.state_dict().keys(), saved.getvalue(), copies)
            for copied in copies:
                assert not any(h.call for m in copied.modules() for h in m._forward_hooks.values() if hasattr(h, "call"))
                copied.train()(**stack(token_rows(2, True))).loss.backward()
                assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters(), strict=True))

        return call

    class Plain(During):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                self.call(model)

    for door in DOORS:
        make_trainer(door, tmp_path, {"radial_lambda": 0.0}, callbacks=[During(make(door))]).train()
    trainer = make_trainer("trainer", tmp_path, {"radial_lambda": 0.0}, cls=_without_penalty, callbacks=[Plain(make("plain"))])
    trainer.train()
    for door in DOORS:
        assert made[door][:2] == made["plain"][:2]
        ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in (door, "plain"))
        assert ours == theirs and load_file(tmp_path / door / "model.safetensors")


def _without_penalty(radial_lambda, **kwargs):
    return Trainer(**kwargs)


@pytest.mark.parametrize("door", DOORS)
def test_worker_processes_that_are_sent_the_model(door, tmp_path):
    import torch.utils.data

    # As with "spawn", the worker gets the model as a pickle; torch is imported once for all workers.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch", "transformers.trainer"])

    class Sending(torch.utils.data.DataLoader):
        def __init__(self, *args, multiprocessing_context=None, **kwargs):
            super().__init__(*args, multiprocessing_context=server, **kwargs)

    model = tiny_gpt2()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.trainer.DataLoader", Sending)
        trainer = make_trainer(door, tmp_path, model=model, max_steps=2, dataloader_num_workers=1)
        trainer.data_collator = Collator(model)
        trainer.train()
    assert training_logs(trainer)[-1]["radial_penalty"] > 0 and live_hooks(model) == WITHOUT
