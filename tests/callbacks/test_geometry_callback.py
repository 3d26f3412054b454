"""`GeometryCallback`: it does not change training, measures the same in every kind of training, and loses no value."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import geometry_worker
import pytest
import torch
from reference import stack, tiny_gpt2, token_rows
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from two_processes import launch
from zoo import tiny_model, training_batch

import hf_radial.geometry
from hf_radial import RadialCallback, RadialTrainer
from hf_radial.callbacks.geometry import GeometryCallback
from hf_radial.callbacks.geometry_line import geometry_line
from hf_radial.callbacks.probe import PROBE_FILE
from hf_radial.geometry.measure import DEFAULT_GROUPS, GROUPS, ModularTable, measure
from hf_radial.geometry.memory import MEMORY_FILE
from hf_radial.geometry.reading import TABLE_FILE, Reading, Table, read_table
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.penalty import functional
from hf_radial.sites.preserve import preserve_random_state
from hf_radial.training.rows import batch_of_rows
from runs import arguments, make_trainer

SITES = [f"transformer.h.{i}.{part}.c_proj" for i in (0, 1) for part in ("attn", "mlp")]
NO_TABLE = [group for group in GROUPS if group != "fourier"]


def modular_rows(p=7):
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    return [{"input_ids": pair, "labels": pair.sum() % p} for pair in pairs]


def modular_model(p=7):
    torch.manual_seed(0)
    return ModularMLPForSequenceClassification(ModularMLPConfig(modulus=p, embedding_size=8, hidden_size=16))


def geometry_logs(trainer):
    return [logs for logs in trainer.state.log_history if "geometry/seconds" in logs]


def numbers(table):
    """Every number of a table but what depends on the machine; and none is there twice."""
    columns = table.columns
    keys = list(zip(*(columns[name] for name in ("step", "epoch", "metric", "site", "index")), strict=True))
    assert len(set(keys)) == len(keys), "double rows"
    return {key: value for key, value in zip(keys, columns["value"], strict=True) if not key[2].startswith("seconds")}


# It changes nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "radial", "callback", "bf16", "accumulated"])
def test_thirty_steps_end_in_the_same_bits_with_it_and_without(how, tmp_path):
    """Dropout on; every group measured, and everything that the trainer itself logs is the same too."""

    def run(name, callbacks):
        options = {"max_steps": 30, "bf16": how == "bf16", "gradient_accumulation_steps": 2 if how == "accumulated" else 1}
        common = {
            "model": tiny_gpt2(dropout=0.3),
            "args": arguments(tmp_path / name, TrainingArguments, **options),
            "train_dataset": token_rows(32, True),
            "data_collator": stack,
        }
        if how == "callback":
            callbacks = [RadialCallback(0.2), *callbacks]
        trainer = RadialTrainer(**common, radial_lambda=0.2, callbacks=callbacks) if how == "radial" else None
        trainer = trainer or Trainer(**common, callbacks=callbacks)
        trainer.train()
        state = torch.random.get_rng_state()
        log = [
            {k: v for k, v in logs.items() if "runtime" not in k and "per_second" not in k}
            for logs in trainer.state.log_history
        ]
        return trainer.model.state_dict(), [logs for logs in log if not any(k.startswith("geometry/") for k in logs)], state

    weights, log, state = run("with", [GeometryCallback(every=7, metrics=NO_TABLE)])
    plain_weights, plain_log, plain_state = run("without", [])
    assert all(torch.equal(weights[name], value) for name, value in plain_weights.items())
    assert log == plain_log
    assert torch.equal(state, plain_state)


def test_the_log_of_trl_is_the_same_and_the_geometry_is_there(tmp_path):
    trl = pytest.importorskip("trl")
    from reference import tiny_llama
    from trl_rows import sentences, tokenizer

    def run(kind, name, callbacks):
        trainer_class, config = {"sft": (trl.SFTTrainer, trl.SFTConfig), "dpo": (trl.DPOTrainer, trl.DPOConfig)}[kind]
        args = config(
            output_dir=str(tmp_path / name),
            per_device_train_batch_size=2,
            max_steps=4,
            logging_steps=2,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )
        rows = sentences("text" if kind == "sft" else "preference")
        extra = {"ref_model": tiny_llama(seed=1)} if kind == "dpo" else {}
        common = {"args": args, "train_dataset": rows, "processing_class": tokenizer(), "callbacks": callbacks}
        trainer = trainer_class(model=tiny_llama(), **common, **extra)
        trainer.train()
        own = [logs for logs in trainer.state.log_history if "loss" in logs]
        return trainer, [{k: v for k, v in logs.items() if not k.startswith("geometry")} for logs in own]

    for kind in ("sft", "dpo"):
        callback = GeometryCallback(every=1)
        trainer, log = run(kind, f"{kind}_with", [callback])
        plain, plain_log = run(kind, f"{kind}_without", [])
        assert log == plain_log
        assert [logs["step"] for logs in geometry_logs(trainer)] == [0, 1, 2, 3, 4]
        last = geometry_logs(trainer)[-1]
        assert 0 < last["geometry/model.layers.0.mlp.down_proj/radial_energy"] < 32
        assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), plain.model.parameters(), strict=True))


# What is measured -----------------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_the_names_of_all_that_is_logged_and_kept(tmp_path):
    model = modular_model()
    trainer = RadialTrainer(
        model=model,
        args=arguments(tmp_path, TrainingArguments),
        radial_lambda=0.1,
        train_dataset=modular_rows(),
        eval_dataset=modular_rows()[:9],
        callbacks=[GeometryCallback(every=3, metrics=GROUPS, modular=ModularTable(7), budget=None)],
    )
    trainer.train()
    logs = geometry_logs(trainer)
    assert [one["step"] for one in logs] == [0, 3, 6]
    for name in ("radius_mean", "radius_target", "radial_energy", "radial_energy_total", "angular_speed", "effective_rank"):
        assert f"geometry/hidden.1/{name}" in logs[1]
    for name in ("hessian_trace", "hessian_trace_se", "lambda_max", "two_over_lr", "restricted_loss", "held_out_accuracy"):
        assert f"geometry/{name}" in logs[1]
    table = read_table(tmp_path / TABLE_FILE)
    rows = numbers(table)
    assert {step for step, *_ in rows} == {0, 3, 6}
    for one in logs:  # what is logged is what is kept
        for name, value in one.items():
            if name.startswith("geometry/") and not name.endswith("_se") and "seconds" not in name:
                _, *site, metric = name.split("/")
                assert rows[one["step"], one.get("epoch"), metric, "/".join(site), None] == value
    indexed = {(metric, site) for _, _, metric, site, index in rows if index is not None}
    assert {("fourier_power", "logits"), ("neuron_selectivity", "hidden.0"), ("singular_value", "hidden.1")} <= indexed
    assert {("prop1_ratio", "hidden.0"), ("prop1_eigenvalue", "hidden.1")} <= indexed
    documented = set(re.findall(r"`(\w+)(?:\[i\])?`", hf_radial.geometry.__doc__)) | {f"seconds_{group}" for group in GROUPS}
    found = {metric.removeprefix("held_out_") for metric in table.columns["metric"]}
    assert found <= documented
    assert documented - found <= {*GROUPS, "held_out_", "embedding", "logits"} | {f"seconds_{group}" for group in GROUPS}
    last = {key: value for key, value in rows.items() if key[2] == "cka_last" and key[0] == 6}
    assert last and all(value == pytest.approx(1, abs=1e-6) for value in last.values())


def test_the_last_measurement_is_that_of_the_weights_that_are_saved(tmp_path):
    callback = GeometryCallback(every=4, metrics=["radial", "function"])
    trainer = make_trainer("trainer", tmp_path, callbacks=[callback], max_steps=6)
    trainer.train()
    found = measure(trainer.model, callback._probe.rows, ["radial"], penalty=trainer.radial_penalty).logs()
    for name, value in geometry_logs(trainer)[-1].items():
        if name.endswith(("radius_mean", "radial_energy", "radial_energy_total")):
            assert found[name] == value


def test_the_trainer_s_own_loss_is_the_task_loss(tmp_path):
    """Label smoothing is the trainer's, not the model's."""
    callback = GeometryCallback(every=2, metrics=["radial"])
    trainer = make_trainer("trainer", tmp_path, callbacks=[callback], label_smoothing_factor=0.4, max_steps=2)
    trainer.train()

    def smooth(model, batch):
        labels = batch.pop("labels")
        return trainer.label_smoother(model(**batch), labels, shift_labels=True)

    found = measure(trainer.model, callback._probe.rows, ["radial"], loss=smooth, penalty=trainer.radial_penalty).logs()
    plain = measure(trainer.model, callback._probe.rows, ["radial"], penalty=trainer.radial_penalty).logs()
    name = f"geometry/{SITES[1]}/radial_energy"
    assert geometry_logs(trainer)[-1][name] == found[name] != plain[name]


def test_the_probe_is_drawn_with_its_seed_and_saved(tmp_path):
    from safetensors.torch import load_file

    probes = []
    for seed in (0, 0, 1):
        callback = GeometryCallback(every=2, seed=seed, rows=12, metrics=["radial"])
        make_trainer("trainer", tmp_path, callbacks=[callback], max_steps=2).train()
        probes.append(load_file(tmp_path / PROBE_FILE))
    assert probes[0]["train.input_ids"].shape == (12, 9)
    assert torch.equal(probes[0]["train.input_ids"], probes[1]["train.input_ids"])
    assert not torch.equal(probes[0]["train.input_ids"], probes[2]["train.input_ids"])


def test_a_probe_of_long_rows_has_fewer(tmp_path):
    rows = [{"input_ids": [1 + i % 13] * 16, "labels": [1 + i % 13] * 16} for i in range(600)]
    callback = GeometryCallback(every=2, metrics=["radial"])
    make_trainer("trainer", tmp_path, rows=rows, callbacks=[callback], max_steps=1).train()
    assert callback._probe.rows["input_ids"].shape == (256, 16)


@pytest.mark.quick
def test_each_group_has_its_own_interval_and_the_last_step_has_all(tmp_path):
    callback = GeometryCallback(metrics={"radial": 1, "spectrum": 3})
    trainer = make_trainer("trainer", tmp_path, callbacks=[callback], max_steps=5)
    trainer.train()
    steps = {
        name: [logs["step"] for logs in geometry_logs(trainer) if f"geometry/{SITES[0]}/{name}" in logs]
        for name in ("radius_mean", "stable_rank")
    }
    assert steps == {"radius_mean": [0, 1, 2, 3, 4, 5], "stable_rank": [0, 3, 5]}


def test_a_budget_skips_expensive_groups_and_no_others(tmp_path):
    def run(budget):
        callback = GeometryCallback(every=1, metrics=["radial", "curvature"], budget=budget)
        trainer = make_trainer("trainer", tmp_path, callbacks=[callback], max_steps=3)
        trainer.train()
        logs = geometry_logs(trainer)
        return [sum(name in one for one in logs) for name in (f"geometry/{SITES[0]}/radius_mean", "geometry/hessian_trace")]

    assert run(None) == [4, 4]
    assert run(0.0) == [4, 1]


def test_a_budget_holds(tmp_path, monkeypatch):
    """By a clock of the test's own: a step takes a second, and each time that a measurement looks at it, half a second."""
    clock = SimpleNamespace(now=0.0)

    def ticks():
        clock.now += 0.5
        return clock.now

    class Step(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            clock.now += 1.0

    monkeypatch.setattr("hf_radial.callbacks.geometry.time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr("hf_radial.geometry.measure.time", SimpleNamespace(perf_counter=ticks))
    callback = GeometryCallback(every=1, metrics=["curvature"], budget=0.05, curvature_probes=4)
    trainer = make_trainer("trainer", tmp_path, callbacks=[callback, Step()], max_steps=60)
    trainer.train()
    seconds = [one["geometry/seconds_curvature"] for one in geometry_logs(trainer)]
    # It measures as often as the budget allows: what it spends is below it by less than one measurement.
    assert 0.05 * clock.now - 2 * max(seconds) < sum(seconds) <= 0.05 * clock.now and len(seconds) < 61


def test_the_last_comparison_is_of_the_steps_at_which_drift_was_measured(tmp_path):
    callback = GeometryCallback(metrics={"radial": 1, "drift": 3})
    make_trainer("trainer", tmp_path, callbacks=[callback], max_steps=6).train()
    columns = read_table(tmp_path / TABLE_FILE).columns
    steps = zip(columns["step"], columns["metric"], strict=True)
    assert {step for step, metric in steps if metric == "cka_last"} == {0, 3, 6}


def test_held_out_rows_without_labels_cost_nothing_of_the_training_rows(tmp_path):
    for rows in ([{"input_ids": row["input_ids"]} for row in token_rows(8, False)], []):
        callback = GeometryCallback(every=1, metrics=["function"])
        trainer = make_trainer("trainer", tmp_path, callbacks=[callback], eval_rows=rows, max_steps=2)
        trainer.train()
        assert all("geometry/accuracy" in one and "geometry/held_out_loss" not in one for one in geometry_logs(trainer))


def test_labels_that_are_the_inputs_themselves(tmp_path):
    def collate(rows):
        tokens = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": tokens, "labels": tokens}

    trainer = Trainer(
        model=tiny_gpt2(),
        args=arguments(tmp_path, TrainingArguments, max_steps=1),
        train_dataset=token_rows(8, False),
        data_collator=collate,
        callbacks=[GeometryCallback(every=1)],
    )
    trainer.train()
    assert len(geometry_logs(trainer)) == 2


def test_the_side_of_the_penalty_is_that_of_the_proposition(tmp_path):
    """Most vectors of this model are inside the sphere, where the penalty that acts above it has no gradient."""
    found = {}
    for side in ("both", "above"):
        callback = GeometryCallback(every=1, metrics=["proposition"])
        trainer = make_trainer("trainer", tmp_path, {"radial_side": side}, callbacks=[callback], max_steps=1)
        trainer.train()
        found[side] = geometry_logs(trainer)[0][f"geometry/{SITES[1]}/prop1_shrink"]
    assert found["both"] < 0 <= found["above"]


def test_the_loss_of_a_model_of_images_and_text_is_about_the_next_token(tmp_path):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    heads = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, text = CLIPVisionConfig(**heads, image_size=8, patch_size=4), LlamaConfig(**heads, vocab_size=16)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=15)).eval()
    batch = stack(token_rows(8, False))
    found = measure(model, batch, ["function"], sites=["*.mlp.down_proj"]).logs()
    with torch.no_grad():
        assert found["geometry/loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    "kind", [("causal-lm", "bart"), ("causal-lm", "bert-generation"), ("causal-lm", "gpt_neo"), ("masked-lm", "xlm")]
)
def test_the_rows_that_are_scored_are_those_of_the_model_s_own_loss(kind):
    """Whatever its class is called: whether labels are shifted is not."""
    model = tiny_model(*kind).eval()
    batch = training_batch(kind[0], model)
    found = measure(model, batch, ["function"]).logs()
    with torch.no_grad():
        assert found["geometry/loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-4)


def test_random_states_that_are_not_kept_are_not_touched(monkeypatch):
    """`torch.manual_seed` seeds every accelerator there is, and one that is not in use yet when it will be."""
    seeded = []
    for module in (torch.cuda, torch.xpu):
        monkeypatch.setattr(module, "manual_seed_all", seeded.append)
    state = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with preserve_random_state(seed=1):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn) and torch.equal(state, torch.get_rng_state())
    assert torch.cuda.is_initialized() or not seeded


def test_a_collator_s_model_is_not_copied(tmp_path):
    class Collate:
        def __init__(self, model):
            self.model = model

        def __call__(self, rows):
            seen.append(self.model)
            return stack(rows)

    seen, model = [], tiny_gpt2()
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, TrainingArguments, max_steps=1),
        train_dataset=token_rows(8, False),
        data_collator=Collate(model),
    )
    batch_of_rows(trainer, trainer.train_dataset, [0, 1])
    assert seen == [model]


# Faults ---------------------------------------------------------------------------------------------------------------


def test_nan_at_a_site_is_named_and_training_goes_on(tmp_path, caplog):
    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                with torch.no_grad():
                    model.transformer.h[1].mlp.c_proj.weight[0] = float("nan")

    trainer = make_trainer("trainer", tmp_path, callbacks=[Break(), GeometryCallback(every=1)], max_steps=4)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert f"site {SITES[3]!r}" in caplog.text
    last = geometry_logs(trainer)[-1]
    assert last[f"geometry/{SITES[3]}/nonfinite"] == 1
    assert all(math.isfinite(value) for value in last.values())


def test_a_measurement_that_fails_later_is_reported_and_training_goes_on(tmp_path, caplog):
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the disk of the loss is full")
        return model(**batch).loss

    trainer = make_trainer(
        "trainer", tmp_path, callbacks=[GeometryCallback(every=1, metrics=["radial"], loss=loss)], max_steps=3
    )
    with caplog.at_level("WARNING"):
        trainer.train()
    assert "geometry at step 1 was not measured: RuntimeError: the disk of the loss is full" in caplog.text
    assert [one["step"] for one in geometry_logs(trainer)] == [0, 2, 3]


def test_what_a_batch_does_not_allow_is_left_out_by_default_and_an_error_if_asked_for(tmp_path, caplog):
    class NoLogits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_gpt2()
            self.config = self.inner.config

        def forward(self, input_ids, attention_mask=None, labels=None):
            return {"loss": self.inner(input_ids, attention_mask=attention_mask, labels=labels).loss}

    def run(metrics):
        trainer = Trainer(
            model=NoLogits(),
            args=arguments(tmp_path, TrainingArguments, max_steps=2),
            train_dataset=token_rows(8, True),
            data_collator=stack,
            callbacks=[GeometryCallback(every=1, metrics=metrics, sites=["*.mlp.c_proj"])],
        )
        trainer.train()
        return trainer

    with caplog.at_level("WARNING"):
        logs = geometry_logs(run(None))
    assert "'function' is not measured in this run" in caplog.text
    assert caplog.text.count("returned no logits") == 1
    assert len(logs) == 3 and "geometry/loss" not in logs[-1]
    with pytest.raises(ValueError, match="leave out 'function'"):
        run(DEFAULT_GROUPS)


@pytest.mark.quick
def test_bad_input_is_named_before_training():
    for options, message in (
        ({"every": 0}, "every=0 must be a whole number"),
        ({"rows": 2.5}, "rows=2.5 must be a whole number"),
        ({"budget": 2}, "budget=2 must be a share"),
        ({"metrics": ["ranks"]}, "'ranks' is unknown"),
        ({"metrics": {"radial": 0}}, r"metrics\['radial'\]=0"),
        ({"metrics": ["fourier"]}, "give modular="),
    ):
        with pytest.raises(ValueError, match=message):
            GeometryCallback(**options)


def test_a_probe_that_cannot_be_drawn_is_an_error_before_the_first_step(tmp_path):
    class Rows(IterableDataset):
        def __iter__(self):
            yield from token_rows(8, False)

    trainer = make_trainer("trainer", tmp_path, {"radial_lambda": 0.0}, rows=Rows(), callbacks=[GeometryCallback()])
    with pytest.raises(ValueError, match="give probe="):
        trainer.train()
    probe = stack(token_rows(4, False))
    trainer = make_trainer(
        "trainer", tmp_path, {"radial_lambda": 0.0}, rows=Rows(), callbacks=[GeometryCallback(probe, every=2)]
    )
    trainer.train()
    assert len(geometry_logs(trainer)) == 4
    with pytest.raises(ValueError, match="held_out='test' is not in eval_dataset"):
        make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(held_out="test")]).train()


def test_outside_a_trainer_it_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="must be called by a"):
        GeometryCallback().on_train_begin(arguments(tmp_path), None, None)


# Resuming -------------------------------------------------------------------------------------------------------------


def nine_steps(folder):
    callback = GeometryCallback(every=2, metrics=NO_TABLE, budget=None)
    return make_trainer("trainer", folder, callbacks=[callback], max_steps=9, save_strategy="steps", save_steps=3)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "FEW", 0)  # as in the tests
        nine_steps(folder).train()
    return folder


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_resumed_run_has_the_table_of_an_unbroken_one(elsewhere, unbroken, tmp_path):
    """From a checkpoint that later measurements lie behind, in its own folder or from another one."""
    expected = numbers(read_table(unbroken / TABLE_FILE))
    folder = tmp_path / "broken"
    shutil.copytree(unbroken, folder)
    checkpoint = folder / "checkpoint-3"
    if elsewhere:
        folder = tmp_path / "new"
    resumed = nine_steps(folder)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert numbers(read_table(folder / TABLE_FILE)) == expected
    assert [one["step"] for one in geometry_logs(resumed)] == [0, 2, 4, 6, 8, 9]


def test_a_checkpoint_without_geometry_is_resumed_with_a_warning(tmp_path, caplog):
    make_trainer("trainer", tmp_path, max_steps=4, save_strategy="steps", save_steps=2).train()
    again = make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(every=2)], max_steps=6)
    with caplog.at_level("WARNING"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "The table begins at step 2" in caplog.text
    assert set(read_table(tmp_path / TABLE_FILE).columns["step"]) == {4, 6}


def test_a_new_run_in_the_same_folder_begins_a_new_table(tmp_path):
    for steps in (8, 2):
        make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(every=2)], max_steps=steps).train()
    assert set(read_table(tmp_path / TABLE_FILE).columns["step"]) == {0, 2}


def test_training_twice_with_one_callback(tmp_path):
    trainer = make_trainer("callback", tmp_path, callbacks=[GeometryCallback(every=2)], max_steps=4)
    trainer.train()
    trainer.train()
    assert set(read_table(tmp_path / TABLE_FILE).columns["step"]) == {0, 2, 4}


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(Table, "write", full)
    with caplog.at_level("WARNING"):
        trainer = make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(every=2)], max_steps=4, save_steps=2)
        trainer.args.save_strategy = "steps"
        trainer.train()
    assert trainer.state.global_step == 4 and len(geometry_logs(trainer)) == 3
    assert "the table of measurements could not be written: no space left on device" in caplog.text


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    table = Table()
    table.add(1, 0.5, [Reading("radius_mean", 2.0, "a", samples=4)])
    table.write(tmp_path / TABLE_FILE)

    def dies(data, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", dies)
        table.add(2, 1.0, [Reading("radius_mean", 3.0, "a")])
        with pytest.raises(OSError, match="no space"):
            table.write(tmp_path / TABLE_FILE)
    assert read_table(tmp_path / TABLE_FILE).columns["step"] == [1]
    assert [file.name for file in tmp_path.iterdir()] == [TABLE_FILE]
    (tmp_path / TABLE_FILE).write_bytes(b"PAR1 or not")
    with pytest.raises(ValueError, match="is not a table of readings"):
        read_table(tmp_path / TABLE_FILE)


def test_a_checkpoint_s_memory_has_no_pickle(tmp_path):
    callback = GeometryCallback(every=1)
    make_trainer("trainer", tmp_path, callbacks=[callback], max_steps=2, save_strategy="steps", save_steps=2).train()
    assert (tmp_path / "checkpoint-2" / MEMORY_FILE).is_file()
    assert set(read_table(tmp_path / "checkpoint-2" / TABLE_FILE).columns["step"]) == {0, 1, 2}


def test_a_probe_that_is_another_one_is_not_compared_with_the_first(tmp_path, caplog):
    """With a learning rate of zero nothing moves: whatever speed were found would be that between other rows."""
    for seed in (0, 3):
        callback = GeometryCallback(every=1, rows=8, seed=seed)
        options = {"learning_rate": 0.0, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        trainer = make_trainer("trainer", tmp_path, rows=token_rows(32, False), callbacks=[callback], **options)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2") if seed else None)
        logs = {one["step"]: one for one in geometry_logs(trainer)}
        assert (f"geometry/{SITES[0]}/angular_speed" in logs[3]) == (seed == 0)
        assert logs[4][f"geometry/{SITES[0]}/angular_speed"] == pytest.approx(0, abs=1e-6)
        assert logs[4][f"geometry/{SITES[0]}/cka_first"] == pytest.approx(1, abs=1e-5)
    assert caplog.text.count("the probe is not the one that was measured before step 2") == 1


def test_a_checkpoint_s_memory_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A run that was killed while it was written can be resumed."""

    def dies(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        if "memory" in Path(path).name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hf_radial.geometry.memory.save_file", dies)
        trainer = make_trainer(
            "trainer", tmp_path, callbacks=[GeometryCallback(every=1)], max_steps=3, save_strategy="steps", save_steps=2
        )
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    again = make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(every=1)], max_steps=3)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert geometry_logs(again)[-1]["step"] == 3


def test_a_run_that_is_stopped_is_measured_on_its_own_weights_and_not_on_the_best(tmp_path):
    class Stop(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            if state.global_step == 4:
                control.should_training_stop = True
                self.norm = math.sqrt(sum(p.double().square().sum().item() for p in model.parameters()))

    stop = Stop()
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 9}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "step_count", "greater_is_better": False}

    class Counting(RadialTrainer):
        def evaluate(self, *args, **kwargs):
            return {**super().evaluate(*args, **kwargs), "eval_step_count": self.state.global_step}

    callbacks = [GeometryCallback(every=3, metrics=["function", "radial"]), stop]
    rows = token_rows(8, True, seed=2)
    trainer = make_trainer("trainer", tmp_path, cls=Counting, callbacks=callbacks, eval_rows=rows, **options, **best)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    logs = geometry_logs(trainer)
    assert [one["step"] for one in logs] == [0, 3, 4]
    assert logs[-1]["geometry/weight_norm"] == pytest.approx(stop.norm, rel=1e-6)
    assert set(read_table(tmp_path / TABLE_FILE).columns["step"]) == {0, 3, 4}


def test_each_trial_of_a_search_has_its_own_table(tmp_path, monkeypatch):
    """As `hyperparameter_search` runs them, without installing what would choose the values."""
    from transformers.trainer_utils import HPSearchBackend

    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)  # knows optuna's class alone
    callback = GeometryCallback(every=1, metrics=["radial"])
    trainer = make_trainer("trainer", tmp_path, callbacks=[callback], max_steps=2, save_strategy="steps", save_steps=2)
    trainer.hp_search_backend, trainer.hp_name = HPSearchBackend.OPTUNA, None
    trainer.hp_space = lambda trial: {}

    class Trial:
        def __init__(self, number):
            self.number, self.params = number, {}

    for number in (0, 1):
        trainer._trial = Trial(number)
        trainer.train(trial=trainer._trial)
        for file in (TABLE_FILE, PROBE_FILE, f"checkpoint-2/{MEMORY_FILE}", f"checkpoint-2/{TABLE_FILE}"):
            assert (tmp_path / f"run-{number}" / file).is_file()


# What people see ------------------------------------------------------------------------------------------------------


def test_the_terminal_has_lines_and_not_hundreds_of_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hf_radial.callbacks.geometry.SECONDS_BETWEEN_LINES", 0.0)
    make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(every=3)], max_steps=6).train()
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith("step ")]
    assert [line.split(" | ")[0] for line in lines] == ["step 0", "step 3", "step 6"]
    assert "radius/target" in lines[1] and "radial energy" in lines[1] and "at 4 sites" in lines[1]
    assert "geometry/" not in text


def test_lines_go_over_the_bar_and_not_through_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("hf_radial.callbacks.geometry.SECONDS_BETWEEN_LINES", 0.0)
    args = {"disable_tqdm": False, "max_steps": 4, "logging_steps": 100}
    make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(every=2)], **args).train()
    out, err = capfd.readouterr()
    assert "geometry/" not in out + err
    shown = [line for line in (out + err).replace("\r", "\n").splitlines() if line.lstrip().startswith("step ")]
    assert len(shown) == 3 and not any("it/s" in line for line in shown)


def test_a_notebook_has_the_lines_below_its_table(tmp_path, capsys, monkeypatch):
    from transformers.trainer_callback import PrinterCallback
    from transformers.utils.notebook import NotebookProgressCallback

    monkeypatch.setattr("hf_radial.callbacks.geometry.SECONDS_BETWEEN_LINES", 0.0)
    trainer = make_trainer("trainer", tmp_path, callbacks=[GeometryCallback(every=2)], max_steps=4)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(NotebookProgressCallback)
    trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(" | ")[0] for line in lines] == ["step 0", "step 2", "step 4"]


def test_tensorboard_has_every_name(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"report_to": "tensorboard", "max_steps": 2}
    trainer = make_trainer("callback", tmp_path, callbacks=[GeometryCallback(every=2)], **options)
    trainer.train()
    file = next(tmp_path.rglob("events.out*"))
    board = EventAccumulator(str(file.parent))
    board.Reload()
    tags = {tag.removeprefix("train/") for tag in board.Tags()["scalars"]}
    assert {name for name in geometry_logs(trainer)[-1] if name.startswith("geometry/")} <= tags


# Two processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_measure_what_one_does(how, tmp_path):
    launch("geometry_worker.py", how, str(tmp_path))
    logs = [json.loads((tmp_path / f"log_{rank}.json").read_text()) for rank in range(2)]
    one = geometry_worker.run(tmp_path / "one", 8).state.log_history
    found, other, expected = ([entry for entry in log if "geometry/seconds" in entry] for log in (*logs, one))
    assert found == other  # what the main process has measured is what all log
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected] == [0, 1, 2, 3]
    for entry, reference in zip(found, expected, strict=True):
        assert entry.keys() == reference.keys()
        for name, value in reference.items():
            if "seconds" in name:
                continue
            # Weights differ by the rounding of a sum over ranks; Lanczos stops at a tolerance of 1e-3.
            tolerance = 5e-3 if "lambda_max" in name or "sharpness" in name else 1e-4
            assert entry[name] == pytest.approx(value, rel=tolerance, abs=1e-5), name
    assert set(read_table(tmp_path / "run" / TABLE_FILE).columns["step"]) == {0, 1, 2, 3}


def test_a_process_in_which_a_measurement_fails_does_not_leave_the_others_waiting(tmp_path):
    launch("geometry_worker.py", "one_fails", str(tmp_path))
    logs = [json.loads((tmp_path / f"log_{rank}.json").read_text()) for rank in range(2)]
    found, other = ([entry for entry in log if "geometry/seconds" in entry] for log in logs)
    assert found == other
    assert [entry["step"] for entry in found] == [0, 1, 2, 3]


def test_the_line_of_a_penalty_towards_zero_has_no_ratio_to_its_target():
    readings = [Reading("radius_mean", 2.0, "hidden.0"), Reading("radius_target", 0.0, "hidden.0")]
    assert geometry_line(TrainerState(epoch=0.0), readings, {}) == "step 0 | epoch 0.0"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"probe": {}}, ValueError, "probe is empty; give a batch"),
        ({"probe": {"input_ids": torch.zeros(0, 4)}}, ValueError, "probe has no tensor with rows, only 'input_ids'"),
        ({"probe": {"text": ["a", "b"]}}, ValueError, "probe has no tensor with rows, only 'text'"),
        ({"probe": [{"input_ids": torch.zeros(2, 4)}]}, TypeError, "probe=list must be a mapping"),
        ({"held_out": {}}, ValueError, "held_out is empty"),
        ({"held_out": 3}, TypeError, "held_out=int must be a mapping"),
    ],
)
def test_a_probe_that_is_no_batch_is_named_when_the_callback_is_made(options, error, message):
    with pytest.raises(error, match=message):
        GeometryCallback(**options)
