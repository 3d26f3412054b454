"""The fast training loop: bit for bit the training of `Trainer`'s own loop; it is used only where this holds."""

from __future__ import annotations

import warnings

import pytest
import torch
from accelerate.state import GradientState
from reference import tiny_gpt2, token_rows
from transformers import Trainer, TrainerCallback

from hf_radial import RadialTrainer
from hf_radial.internals import epoch as fast_epoch
from hf_radial.internals.epoch import FastEpochMixin
from runs import DOORS, arguments, make_trainer

CLOCKS = ("runtime", "per_second")


class Diary(TrainerCallback):
    """Every event, with what a callback could see of it."""

    def __init__(self, events=(), act=None):
        self.lines, self.act = [], act
        for name in events:
            setattr(self, name, self._listener(name))

    def _listener(self, name):
        def listen(args, state, control, model=None, **kwargs):
            gradients = (
                [p.grad is not None and p.grad.sum().item() for p in model.parameters()] if "optimizer_step" in name else ()
            )
            total = sum(p.double().sum().item() for p in model.parameters())
            self.lines.append((name, state.global_step, state.epoch, vars(control).copy(), model.training, total, gradients))
            if self.act is not None:
                self.act(name, state, control, model)

        return listen


EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_") and name != "on_init_end"]


def numbers(logs):
    return [{k: v for k, v in log.items() if not any(clock in k for clock in CLOCKS)} for log in logs]


def state_of(trainer):
    state = {k: v for k, v in vars(trainer.state).items() if k not in ("log_history", "stateful_callbacks")}
    return state | {"logs": numbers(trainer.state.log_history), "flos": trainer.current_flos}


def both(monkeypatch, train):
    """What `train()` returns with the fast loop, and with `Trainer`'s; and how many of its epochs there were."""
    epochs = []
    fast = FastEpochMixin._fast_epoch
    monkeypatch.setattr(FastEpochMixin, "_fast_epoch", lambda self, *args: (epochs.append(args[1]), fast(self, *args)))
    found = train("fast")
    assert epochs
    monkeypatch.setattr(fast_epoch, "why_not_fast", lambda *args: "to compare")
    count, expected = len(epochs), train("stock")
    assert len(epochs) == count
    return found, expected, count


def compare(monkeypatch, tmp_path, events=(), act=None, resume=False, **options):
    def train(name):
        torch.manual_seed(7)
        diary = Diary(events, act)
        model = tiny_gpt2(dropout=0.1)
        rows = {"rows": token_rows(30, True), "eval_rows": token_rows(6, True, seed=2)}
        trainer = make_trainer("trainer", tmp_path / name, model=model, callbacks=[diary], **rows, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            trainer.train(resume_from_checkpoint=resume and str(tmp_path / name / "checkpoint-5"))
        diary.lines = [line[:3] for line in diary.lines] if resume else diary.lines
        return {n: p.clone() for n, p in model.state_dict().items()}, state_of(trainer), diary.lines, torch.get_rng_state()

    found, expected, epochs = both(monkeypatch, train)
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], value) for name, value in expected[0].items())
    for mine, stock in zip(found[1]["logs"], expected[1]["logs"], strict=True):
        assert mine == stock
    assert found[1:3] == expected[1:3] and torch.equal(found[3], expected[3])
    return found, epochs


def stop_in_the_middle(name, state, control, model):
    if name == "on_step_end" and state.global_step == 11:
        control.should_training_stop = control.should_log = True


def end_an_epoch_early(name, state, control, model):
    if name == "on_step_end" and state.global_step in (3, 12):
        control.should_epoch_stop = True


def change_gradients(name, state, control, model):
    if name == "on_pre_optimizer_step":
        for p in model.parameters():
            p.grad.mul_(0.5)


def leave_in_evaluation_mode(name, state, control, model):
    if name == "on_step_end":
        model.eval()


def spoil_a_weight(name, state, control, model):
    if name == "on_step_begin" and state.global_step == 9:
        next(model.parameters()).data[:] = float("nan")


# Without a penalty the same twelve ways again: less happens in a step.
@pytest.mark.parametrize("radial_lambda", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": 0.0, "logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "epoch"},
        {"max_grad_norm": 0.0, "logging_first_step": True, "logging_steps": 100, "eval_strategy": "steps", "eval_steps": 5},
        {"max_grad_norm": 0.0, "optim": "adafactor", "include_num_input_tokens_seen": "all", "max_steps": 11},
        {"lr_scheduler_type": "cosine", "warmup_steps": 3, "label_smoothing_factor": 0.1, "dataloader_drop_last": True},
        {"max_grad_norm": 0.0, "events": EVENTS},
        {"max_grad_norm": 0.0, "events": ["on_step_end"]},
        {"max_grad_norm": 0.0, "events": ["on_step_end"], "act": stop_in_the_middle},
        {"max_grad_norm": 0.0, "events": ["on_step_end"], "act": end_an_epoch_early, "logging_strategy": "epoch"},
        {"max_grad_norm": 0.0, "events": ["on_pre_optimizer_step"], "act": change_gradients},
        {"events": EVENTS, "act": leave_in_evaluation_mode},
    ],
    ids=lambda options: " ".join(f"{getattr(v, '__name__', v)}"[:20] for v in options.values()) or "defaults",
)
def test_the_same_training_bit_for_bit(options, radial_lambda, monkeypatch, tmp_path):
    options = {"max_steps": -1, "num_train_epochs": 3, "options": {"radial_lambda": radial_lambda}, **options}
    _, epochs = compare(monkeypatch, tmp_path, **options)
    assert epochs >= 2


def test_losses_that_are_not_finite_are_logged_alike(monkeypatch, tmp_path):
    def train(name):
        trainer = make_trainer(
            "trainer", tmp_path / name, callbacks=[Diary(EVENTS, spoil_a_weight)], max_steps=12, logging_steps=4
        )
        trainer.train()
        return repr(state_of(trainer))

    found, expected, _ = both(monkeypatch, train)
    assert found == expected and "nan" in found


def test_a_run_that_goes_on_in_the_middle_of_an_epoch(monkeypatch, tmp_path):
    """The epoch that it goes on in is `Trainer`'s own; the next are the fast loop's."""
    options = {"max_steps": -1, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 5, "save_total_limit": 9}
    for name in ("fast", "stock"):
        make_trainer("trainer", tmp_path / name, model=tiny_gpt2(dropout=0.1), rows=token_rows(30, True), **options).train()
    _, epochs = compare(monkeypatch, tmp_path, resume=True, events=EVENTS, **options)
    assert epochs == 2


@pytest.mark.quick
@pytest.mark.parametrize("door", DOORS)
def test_both_doors_are_fast(door, monkeypatch, tmp_path):
    def train(name):
        model = tiny_gpt2()
        trainer = make_trainer(door, tmp_path / name, model=model, rows=token_rows(16, True), max_steps=8)
        trainer.train()
        return torch.cat([p.detach().flatten() for p in model.parameters()]), numbers(trainer.state.log_history)

    found, expected, epochs = both(monkeypatch, train)
    assert torch.equal(found[0], expected[0]) and found[1] == expected[1] and epochs == 2


class OwnStep(RadialTrainer):
    def training_step(self, *args, **kwargs):
        return super().training_step(*args, **kwargs)


class OwnBatches(RadialTrainer):
    def get_batch_samples(self, *args, **kwargs):
        return super().get_batch_samples(*args, **kwargs)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gradient_accumulation_steps": 2}, "accumulation"),
        ({"torch_empty_cache_steps": 3}, "torch_empty_cache_steps"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}, "scheduler"),
        ({"cls": OwnStep}, "training_step is overridden"),
        ({"cls": OwnBatches}, "get_batch_samples is overridden"),
    ],
)
def test_everything_else_is_left_to_trainer(change, reason, monkeypatch, tmp_path):
    found = []
    why = fast_epoch.why_not_fast
    monkeypatch.setattr(fast_epoch, "why_not_fast", lambda *args: (found.append(why(*args)), found[-1])[1])
    make_trainer("trainer", tmp_path, eval_rows=token_rows(4, True), max_steps=3, **change).train()
    assert found and all(reason in str(answer) for answer in found)


def test_methods_replaced_on_the_objects_themselves_are_called(tmp_path):
    calls = []

    def counting(name, method):
        return lambda *args, **kwargs: (calls.append(name), method(*args, **kwargs))[1]

    trainer = make_trainer("trainer", tmp_path, max_steps=3)
    trainer.training_step = counting("step", trainer.training_step)
    trainer.accelerator.backward = counting("backward", trainer.accelerator.backward)
    trainer.train()
    assert sorted(calls) == ["backward"] * 3 + ["step"] * 3


def test_nothing_is_left_on_the_callback_handler(tmp_path):
    def fail(name, state, control, model):
        raise ArithmeticError

    trainer = make_trainer("trainer", tmp_path, callbacks=[Diary(["on_step_end"], fail)])
    with pytest.raises(ArithmeticError):
        trainer.train()
    assert "call_event" not in vars(trainer.callback_handler)


def test_a_plain_trainer_with_the_mixin(monkeypatch, tmp_path):
    """The loop knows nothing of the penalty."""

    class Fast(FastEpochMixin, Trainer):
        pass

    weights = []
    for cls in (Fast, Trainer):
        model = tiny_gpt2(dropout=0.1)
        cls(model=model, args=arguments(tmp_path / cls.__name__), train_dataset=token_rows(16, True)).train()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_no_loader_stays_registered(tmp_path):
    """Accelerate keeps one for each epoch else, and every batch of a process's later runs looks through all of them."""
    registered = GradientState()._dataloader_references_ref
    make_trainer("trainer", tmp_path, model=tiny_gpt2(), rows=token_rows(30, True), num_train_epochs=3, max_steps=-1).train()
    assert len(GradientState()._dataloader_references_ref) == len(registered)
