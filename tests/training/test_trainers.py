"""Trainers that make the model's batches themselves: the vectors that the sites see count, for every split of a step."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from accelerate.utils import DistributedType
from reference import (
    keeping,
    reference_of_step,
    relative_error,
    stack,
    tiny_gpt2,
    tiny_llama,
    token_rows,
    whole_error,
)
from torch import nn
from transformers import Trainer
from two_processes import launch

from hf_radial import RadialCallback, RadialPenalty, RadialTrainer
from hf_radial.runs.record import RUN_FILE
from hf_radial.training.rows import makes_its_batches
from runs import DOORS, SITES, KeepGradients, arguments, make_trainer, one_step_arguments, training_logs

pytest.importorskip("trl")
import trainers_worker as worker

CACHED = "SentenceTransformerTrainer, CachedMultipleNegativesRankingLoss"
NAMES = [name for name in worker.CASES if name != CACHED]
IN_TWO_PROCESSES = ["GRPOTrainer", "ORPOTrainer, initial radius", "DPOTrainer", "Seq2SeqTrainer, predict_with_generate"]


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


def check(result):
    assert result["calls"] > 0
    assert result["gradient_error"] < worker.TOLERANCE
    assert result["penalty_error"] < 1e-6
    assert result["loss_error"] < worker.ROUNDED


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_one_step_is_that_of_the_reference(name, accumulation, tmp_path):
    pytest.importorskip(worker.CASES[name][0])
    if name == "SetFit" and accumulation > 1:
        pytest.skip("SetFit's arguments have no gradient accumulation")
    check(worker.measure(name, tmp_path, accumulation))


def test_a_loss_that_runs_the_model_in_its_backward_pass_is_refused(tmp_path):
    pytest.importorskip(worker.CASES[CACHED][0])
    with pytest.raises(RuntimeError, match="use another"):
        worker.one_step(worker.CASES[CACHED][1], tmp_path, 1, radial=True)


def test_in_two_processes_as_well(tmp_path):
    launch("trainers_worker.py", str(tmp_path), *IN_TWO_PROCESSES, "--accumulation", "1", "3")
    for name in IN_TWO_PROCESSES:
        for accumulation in (1, 3):
            check(json.loads((tmp_path / f"{name}_{accumulation}.json").read_text()))


def test_the_table_is_made_of_the_rows():
    data = json.loads((worker.RESULTS / "trainers.json").read_text())
    assert (worker.RESULTS / "trainers.md").read_text() == worker.table(data)
    assert set(data["package"]) == set(worker.CASES)
    assert not any(worker.verdict(row).startswith("WRONG") for row in data["rows"])


# What is decided before the step ------------------------------------------------------------------------------------------


class Passes(Trainer):
    """Cannot change the batch: it does not know it."""

    def training_step(self, *args, **kwargs):
        return super().training_step(*args, **kwargs)


class Prepares(Trainer):
    def _prepare_inputs(self, inputs):
        return super()._prepare_inputs(inputs)


class Steps(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        return super().training_step(model, inputs, num_items_in_batch)


@pytest.mark.parametrize(("base", "late"), [(Trainer, False), (Passes, False), (Prepares, True), (Steps, True)])
def test_only_a_trainer_that_can_change_its_batches_counts_in_the_step(base, late, tmp_path, monkeypatch):
    trainer = make_trainer("callback", tmp_path, base=base, gradient_accumulation_steps=2, max_steps=1)
    assert makes_its_batches(trainer) is late
    held = []
    monkeypatch.setattr("hf_radial.training.site_counts.SiteCounts.hold", spy(held, "hold"))
    trainer.train()
    assert len(held) == late


def spy(calls, name):
    from hf_radial.training.site_counts import SiteCounts

    plain = getattr(SiteCounts, name)

    def called(*args, **kwargs):
        calls.append(name)
        return plain(*args, **kwargs)

    return called


class LooksTwiceAtLongRows(Trainer):
    """Some vectors of the batch are seen twice: how many, the batch does not tell."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        long = inputs["attention_mask"].sum(1) > 5
        again = model(**{name: tensor[long] for name, tensor in inputs.items()}) if long.any() else outputs
        return outputs.loss + 0 * again.loss


def test_the_user_can_have_any_batch_counted_in_the_step(tmp_path):
    """The way out that the error of batches "not in proportion" names."""
    trainer = make_trainer("callback", tmp_path, base=LooksTwiceAtLongRows, gradient_accumulation_steps=2)
    with pytest.raises(RuntimeError, match="radial_counts_at_sites = True"):
        trainer.train()
    trainer = make_trainer("callback", tmp_path, base=LooksTwiceAtLongRows, gradient_accumulation_steps=2)
    trainer.radial_counts_at_sites = True
    trainer.train()
    assert len(training_logs(trainer)) == 3


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"bf16": True}, {"compiled": True}], ids=str)
def test_counting_in_the_step_gives_the_gradient_of_counting_before(options, tmp_path):
    """Uneven micro-batches, with padding; in bf16 to its accuracy."""
    options = dict(options)
    gradients, logs, compiled = [], [], options.pop("compiled", False)
    for late in (False, True):
        keep, model = KeepGradients(), tiny_gpt2(layers=1)
        if compiled:
            model.compile(backend="aot_eager")
        trainer = make_trainer(
            "trainer",
            tmp_path,
            model=model,
            callbacks=[keep],
            gradient_accumulation_steps=4,
            max_steps=1,
            logging_steps=1,
            **options,
        )
        trainer.radial_counts_at_sites = late
        trainer.train()
        gradients.append(keep.gradients)
        logs.append(training_logs(trainer)[0])
    assert relative_error(gradients[1], {n: g.double() for n, g in gradients[0].items()}) < (
        0.05 if "bf16" in options else 1e-5
    )
    for name in ("loss", "task_loss", "radial_penalty"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-5)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_weights_in_fp16_train_to_the_accuracy_of_fp16(accumulation, late, tmp_path):
    """11 bits: 0.05 % in each operation; radii and means are taken in float32."""
    model = tiny_gpt2().half()
    args = one_step_arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=accumulation)
    rows = token_rows(3 * accumulation, True)
    trainer = keeping(Trainer)(
        model=copy.deepcopy(model), args=args, train_dataset=rows, data_collator=stack, callbacks=[RadialCallback(0.3)]
    )
    trainer.radial_counts_at_sites = late
    trainer.train()
    expected = reference_of_step(model, trainer.kept_batches[0], 0.3)
    assert trainer.state.log_history[0]["radial_penalty"] == pytest.approx(expected["radial_penalty"], rel=2e-3)
    assert whole_error(trainer.kept_gradients[0], expected["gradients"]) < 0.02


class CallsBackwardTwice(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        inputs = self._prepare_inputs(inputs)
        losses = [model(**{name: tensor[i::2] for name, tensor in inputs.items()}).loss for i in range(2)]
        for loss in losses:
            self.accelerator.backward(loss, retain_graph=True)
        return sum(losses).detach()


def test_two_backward_passes_in_a_step_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match=r"called accelerator\.backward twice"):
        make_trainer("callback", tmp_path, base=CallsBackwardTwice).train()


def test_accumulation_under_fsdp_is_refused_before_the_first_step(tmp_path, monkeypatch):
    trainer = make_trainer("trainer", tmp_path, gradient_accumulation_steps=2)
    trainer.radial_counts_at_sites = True
    monkeypatch.setattr(trainer.accelerator.state, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="gradient_accumulation_steps=1"):
        trainer.begin_radial(None)


# The initial radius without rows ------------------------------------------------------------------------------------------


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def targets(trainer):
    return {name: value for name, value in training_logs(trainer)[0].items() if name.startswith("radius_target/")}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("door", DOORS)
def test_initial_radii_of_a_stream_are_those_of_its_first_batch(door, accumulation, tmp_path):
    rows = token_rows(32, True)
    given = {"rows": Stream(rows), "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(door, tmp_path, {"radial_radius": "initial"}, **given)
    trainer.train()
    by_hand = RadialPenalty(tiny_gpt2(), 0.1, radius="initial")
    assert targets(trainer) == pytest.approx(
        {f"radius_target/{site}": radius for site, radius in by_hand.calibrate(**stack(rows[:4])).items()}
    )
    record = json.loads((tmp_path / RUN_FILE).read_text())
    assert [site["target"] for site in record["radial"]["sites"]] == pytest.approx(list(by_hand.targets.values()))


@pytest.mark.parametrize("door", DOORS)
def test_the_first_batch_changes_nothing_else(door, tmp_path):
    """With the targets given as numbers beforehand, training is the same to the bit; dropout draws the same."""
    rows = token_rows(32, True)
    trainer = make_trainer(door, tmp_path, {"radial_radius": "initial"}, rows=Stream(rows), model=tiny_gpt2(dropout=0.1))
    trainer.train()
    twin = RadialTrainer(
        model=tiny_gpt2(dropout=0.1),
        args=arguments(tmp_path),
        train_dataset=Stream(rows),
        radial_lambda=0.2,
        radial_radius="initial",
    )
    found = {site: targets(trainer)[f"radius_target/{site}"] for site in SITES}
    begin = twin.begin_radial
    twin.begin_radial = lambda resumed: begin(resumed, found)
    twin.train()
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), twin.model.parameters(), strict=True))


@pytest.mark.parametrize("door", DOORS)
def test_a_resumed_stream_keeps_the_radii_of_its_start(door, tmp_path):
    rows = token_rows(32, True)
    given = {"rows": Stream(rows), "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(door, tmp_path, {"radial_radius": "initial"}, **given)
    whole.train()
    resumed = make_trainer(door, tmp_path, {"radial_radius": "initial"}, **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    last = training_logs(resumed)[-1]
    assert {name: last[name] for name in targets(whole)} == targets(whole)


@pytest.mark.parametrize("door", DOORS)
def test_resuming_with_other_sites_says_what_to_do(door, tmp_path):
    options = {"radial_radius": "initial", "radial_sites": ["*.mlp.c_proj"]}
    make_trainer(door, tmp_path, options, save_strategy="steps", save_steps=3).train()
    with pytest.raises(ValueError, match=r"checkpoint has the initial radii of 2 sites .*Give radial_sites"):
        make_trainer(door, tmp_path, {"radial_radius": "initial"}).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


# Without lambda -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", ["sqrt_d", "initial"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_grpo_without_lambda_trains_as_the_plain_trainer(radius, accumulation, tmp_path):
    def weights(callbacks):
        torch.manual_seed(7)
        make = worker.of_trl("GRPO", "prompt", num_generations=2, max_completion_length=6, reward_funcs=worker.by_length)
        trainer = make(tmp_path, accumulation, callbacks)
        trainer.args.learning_rate, trainer.args.max_steps = 1e-2, 2
        trainer.train()
        return trainer.model.state_dict(), trainer.state.log_history[0]

    ours, log = weights([RadialCallback(0.0, radial_radius=radius)])
    plain, _ = weights([])
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    assert any(name.startswith("radius/") for name in log)


# Which model, and what is trained -------------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """A module whose arguments are not those of the model within, and that tells nothing of padding."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = tiny_llama(), nn.Linear(13, 1)

    def forward(self, rows):
        outputs = self.inner(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], labels=rows["labels"])
        return outputs


@pytest.mark.parametrize("given", ["rows", "tokens"])
def test_the_padding_is_that_of_the_transformers_model_within(given):
    batch = stack(token_rows(6, True))
    model = Wrapper().train()

    def forward(tokens, real):
        return model.inner(input_ids=tokens, attention_mask=real).logits

    if given == "tokens":
        model.forward = lambda tokens, real: forward(tokens, real)
    with RadialPenalty(model, 1.0) as penalty:
        assert [site.name for site in penalty.sites][:1] == ["inner.model.layers.0.self_attn.o_proj"]
        model(batch) if given == "rows" else model(batch["input_ids"], batch["attention_mask"])
        found = penalty()
    expected, _ = worker.penalty_gradient(tiny_llama(), [batch])
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig", "PrefixTuningConfig"])
def test_virtual_tokens_count_where_the_sublayers_see_them(kind, accumulation, tmp_path):
    """Prompt tuning puts three vectors before each row; a prefix is seen by the attention alone."""
    peft = pytest.importorskip("peft")
    options = {"encoder_hidden_size": 16} if kind == "PromptEncoderConfig" else {}
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3, **options)
    model = peft.get_peft_model(tiny_llama(), config)
    calls = []
    model.get_base_model().register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
    trainer = make_trainer(
        "trainer",
        tmp_path,
        model=model,
        max_steps=1,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.0,
        logging_steps=1,
    )
    calls.clear()
    trainer.train()
    log = training_logs(trainer)[0]
    assert log["loss"] == pytest.approx(log["task_loss"] + 0.2 * log["radial_penalty"], rel=1e-5)
    assert len(calls) == accumulation
    if kind == "PrefixTuningConfig":
        return
    assert all(call["inputs_embeds"].shape[1] == 9 + 3 for call in calls)
    with torch.no_grad():
        each = [
            worker.llama_increments(model.get_base_model(), {**call, "input_ids": call["attention_mask"]}) for call in calls
        ]
    expected = sum(
        torch.cat([(h[real].norm(dim=-1) - 32**0.5).square() / 32 for h, real in site]).mean()
        for site in zip(*each, strict=True)
    )
    assert log["radial_penalty"] == pytest.approx(float(expected), rel=1e-4)


class Unnamed(nn.Module):
    """Its inputs have no default: its sites are seen when it is first called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(2)])

    def forward(self, signal, labels=None):
        for layer in self.layers:
            signal = signal + layer(signal)
        return {"loss": nn.functional.mse_loss(signal.sum(-1), labels)}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("radius", ["sqrt_d", "initial"])
@pytest.mark.parametrize("door", DOORS)
def test_sites_that_only_the_first_batch_shows(door, radius, accumulation, tmp_path, caplog):
    """As with the same rows by index, to rounding; the table is shown."""
    rows = [{"signal": [0.1 * i, 0.2, -0.3], "labels": 0.1 * i} for i in range(32)]
    weights, logs = [], []
    for given in (Stream(rows), rows):
        torch.manual_seed(0)
        trainer = make_trainer(
            door, tmp_path, {"radial_radius": 2.0 if radius == "sqrt_d" else radius}, rows=given, model=Unnamed(), max_steps=3,
            gradient_accumulation_steps=accumulation, logging_steps=1,
        )  # fmt: skip
        if given is rows:  # in the order of the stream
            trainer._get_train_sampler = lambda *args: torch.utils.data.SequentialSampler(rows)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        logs.append(training_logs(trainer)[0])
    assert "layers.0" in caplog.text and "target radius" in caplog.text
    if radius == "sqrt_d":
        assert logs[0]["radial_penalty"] == pytest.approx(logs[1]["radial_penalty"], rel=1e-5)
        assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-5)
    assert logs[0]["loss"] == pytest.approx(logs[0]["task_loss"] + 0.2 * logs[0]["radial_penalty"], rel=1e-5)
    del weights


def test_a_frozen_backbone_is_warned_of_before_the_first_optimizer_step(tmp_path):
    model = tiny_gpt2()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("ln_f" in name)
    with pytest.warns(UserWarning, match="cannot act at 4 of 4 sites"):
        make_trainer("trainer", tmp_path, model=model).train()


@pytest.mark.parametrize("door", DOORS)
def test_a_model_that_is_all_frozen_is_refused(door, tmp_path):
    model = tiny_gpt2().requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of GPT2LMHeadModel is frozen"):
        make_trainer(door, tmp_path, model=model).train()


def test_two_penalties_may_share_a_model_but_no_site():
    model, batch = tiny_gpt2().train(), stack(token_rows(4, True))
    with RadialPenalty(model, 0.1), pytest.raises(ValueError, match="has a RadialPenalty already"):
        RadialPenalty(model, 0.1).attach()
    parts = []
    for pattern in ("*.attn.c_proj", "*.mlp.c_proj"):
        with RadialPenalty(model, 0.1, sites=[pattern]) as penalty:
            model(**batch)
            parts.append(penalty().item())
    with RadialPenalty(model, 0.1, sites=["*.attn.c_proj"]) as one, RadialPenalty(model, 0.1, sites=["*.mlp.c_proj"]) as other:
        model(**batch)
        assert [one().item(), other().item()] == pytest.approx(parts)


def test_what_an_epoch_leaves_over_is_said_and_the_logs_agree(tmp_path, caplog):
    """4 batches an epoch in threes, of a stream whose length is unknown."""
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(
            "trainer", tmp_path, rows=Stream(token_rows(16, True)), gradient_accumulation_steps=3, max_steps=4, logging_steps=1
        )
        trainer.train()
    assert caplog.text.count("not a multiple of gradient_accumulation_steps=3") == 1
    for log in training_logs(trainer):
        assert log["loss"] == pytest.approx(log["task_loss"] + 0.2 * log["radial_penalty"], rel=1e-5)
