"""`torch.compile`: the same gradient, and no more compilations than with the plain trainer."""

from __future__ import annotations

import shutil

import pytest
import torch
from reference import check_step, keeping, reference_of_step, stack, tiny_gpt2, tiny_llama, token_rows, whole_error
from torch._dynamo.utils import counters
from transformers import Trainer, TrainingArguments, default_data_collator

from hf_radial import RadialCallback, RadialPenalty, RadialTrainer

LAMBDA, BACKEND = 0.3, "aot_eager"
STEPS = 2


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    # TrainingArguments leaves its choice here, and every later Trainer of the process would compile.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def trimmed(rows):
    """Each micro-batch as long as its longest row."""
    batch = stack(rows)
    return {name: tensor[:, : int(batch["attention_mask"].sum(1).max())] for name, tensor in batch.items()}


def trainer_of(trainer_class, model, folder, collator=default_data_collator, callbacks=None, backend=BACKEND, **options):
    radial = {name: options.pop(name) for name in list(options) if name.startswith("radial_")}
    args = TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "max_steps": STEPS,
            "max_grad_norm": 0.0,
            "learning_rate": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "torch_compile_backend": backend,
            "torch_compile": True,
            **options,
        }
    )
    rows = {"train_dataset": token_rows(6 * STEPS, padded=True), "eval_dataset": token_rows(6, padded=True, seed=2)}
    return keeping(trainer_class)(model=model, args=args, data_collator=collator, callbacks=callbacks, **rows, **radial)


def compiled() -> dict[str, int]:
    """How often, how much, and with how many breaks, since last asked."""
    report = {name: counters["stats"][name] for name in ("unique_graphs", "calls_captured")}
    report["breaks"], report["frames"] = sum(counters["graph_break"].values()), counters["frames"]["total"]
    counters.clear()
    return report


def check(trainer, weights, model):
    logs = [log for log in trainer.state.log_history if "task_loss" in log]
    for batches, gradients, log, weight in zip(trainer.kept_batches, trainer.kept_gradients, logs, weights, strict=True):
        assert log["radial_lambda"] == pytest.approx(weight)
        check_step(model, batches, gradients, log, weight)


def small():
    """One block: compiling is what takes the time here."""
    return tiny_llama(layers=1)


@pytest.mark.parametrize(
    ("make", "checkpointing"),
    [
        (small, False),
        (small, True),
        pytest.param(tiny_gpt2, False, marks=pytest.mark.slow),
        pytest.param(tiny_gpt2, True, marks=pytest.mark.slow),
    ],
)
def test_every_step_is_exact_and_one_graph_serves_all(make, checkpointing, tmp_path):
    options = {"gradient_checkpointing": checkpointing}
    trainer_of(Trainer, make(), tmp_path, **options).train()
    plain = compiled()
    assert plain["unique_graphs"] > 0
    for warmup, weights in ((0, [LAMBDA] * STEPS), (10, [LAMBDA * (step + 1) / 10 for step in range(STEPS)])):
        trainer = trainer_of(
            RadialTrainer, make(), tmp_path, radial_lambda=LAMBDA, radial_warmup_steps=warmup, **options
        )  # on another model, after the plain one was compiled
        trainer.train()
        ours = compiled()
        assert ours["calls_captured"] > plain["calls_captured"]
        assert {**ours, "calls_captured": 0} == {**plain, "calls_captured": 0}
        check(trainer, weights, make())


def test_through_the_callback(tmp_path):
    trainer = trainer_of(Trainer, small(), tmp_path, callbacks=[RadialCallback(LAMBDA)])
    trainer.train()
    assert compiled()["unique_graphs"] == 1
    check(trainer, [LAMBDA] * STEPS, small())


def test_lengths_that_change_compile_as_often_as_without_us(tmp_path):
    reports = []
    for trainer_class, options in ((Trainer, {}), (RadialTrainer, {"radial_lambda": LAMBDA})):
        torch.compiler.reset()
        trainer = trainer_of(trainer_class, small(), tmp_path, collator=trimmed, **options)
        trainer.train()
        assert len({batch["input_ids"].shape[1] for batches in trainer.kept_batches for batch in batches}) > 1
        reports.append({**compiled(), "calls_captured": 0})
    assert reports[0] == reports[1]
    assert reports[0]["unique_graphs"] > 1
    check(trainer, [LAMBDA] * STEPS, small())


def test_evaluation_costs_nothing(tmp_path):
    """The same operations as the plain trainer's, before, within and after the training."""
    reports = []
    for trainer_class, options in ((Trainer, {}), (RadialTrainer, {"radial_lambda": LAMBDA})):
        torch.compiler.reset()
        trainer = trainer_of(trainer_class, small(), tmp_path, eval_strategy="steps", eval_steps=1, **options)
        trainer.train()
        whole = compiled()
        trainer.evaluate()
        reports.append((whole, compiled()))
    (plain, plain_after), (ours, ours_after) = reports
    assert ours_after == plain_after
    assert {**ours, "calls_captured": 0} == {**plain, "calls_captured": 0}
    # One radius at each of the two sites, in the graph of the training and in no other.
    assert ours["calls_captured"] == plain["calls_captured"] + 2
    check(trainer, [LAMBDA] * STEPS, small())


def test_again_on_the_same_trainer(tmp_path):
    trainer = trainer_of(RadialTrainer, small(), tmp_path, radial_lambda=LAMBDA)
    trainer.evaluate()
    for _ in range(2):
        trainer.train()
        check(trainer, [LAMBDA] * STEPS, small())
        trainer.kept_batches.clear()
        trainer.kept_gradients.clear()


def gradients_of(model):
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return gradients


def reference_gradients(batch, radial_lambda):
    return reference_of_step(small(), [batch], radial_lambda, dtype=torch.float32)["gradients"]


@pytest.mark.parametrize(
    "way", ["wrapped", "in place", "blocks", pytest.param("hooked on the wrapper", marks=pytest.mark.slow)]
)
def test_in_a_hand_written_loop(way):
    model, batch = small().train(), stack(token_rows(8, padded=True))
    call = hooked = model
    if way == "in place":
        model.compile(backend=BACKEND)
    elif way == "blocks":
        for block in model.model.layers:
            block.compile(backend=BACKEND)
    else:
        call = torch.compile(model, backend=BACKEND)
        hooked = call if way == "hooked on the wrapper" else model
    for _ in range(2):
        with RadialPenalty(hooked, LAMBDA) as penalty:
            (call(**batch).loss + penalty()).backward()
        assert whole_error(gradients_of(model), reference_gradients(batch, LAMBDA)) < 1e-6
    assert compiled()["unique_graphs"] > 0
    call(**batch).loss.backward()
    assert whole_error(gradients_of(model), reference_gradients(batch, 0.0)) < 1e-6


def test_hooks_that_came_too_late_are_no_silent_zero():
    model, batch = small().train(), stack(token_rows(8, padded=True))
    call = torch.compile(model, backend=BACKEND)
    call(**batch).loss.backward()
    model.zero_grad()
    with RadialPenalty(model, LAMBDA) as penalty:
        loss = call(**batch).loss
        with pytest.raises(RuntimeError, match=r"torch\.compiler\.reset\(\)"):
            penalty()
        torch.compiler.reset()
        loss = call(**batch).loss
        (loss + penalty()).backward()
    assert whole_error(gradients_of(model), reference_gradients(batch, LAMBDA)) < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_inductor(checkpointing, tmp_path):
    options = {"gradient_checkpointing": checkpointing, "radial_warmup_steps": 10}
    trainer = trainer_of(RadialTrainer, small(), tmp_path, backend="inductor", radial_lambda=LAMBDA, **options)
    trainer.train()
    assert compiled()["unique_graphs"] == 1
    check(trainer, [LAMBDA * (step + 1) / 10 for step in range(STEPS)], small())
