"""`ContinualCallback`: right numbers at the right steps, no effect on training, an event at each boundary, and resuming."""

import copy

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_radial.callbacks.continual import ContinualCallback, hits_of
from hf_radial.callbacks.geometry import GeometryCallback
from hf_radial.geometry.reading import TABLE_FILE, read_table
from hf_radial.geometry.units import dead_share
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.models.vector_mlp import VectorMLPConfig, VectorMLPForClassification
from hf_radial.runs import retention
from hf_radial.tasks import load_task, task_tokenizer
from hf_radial.tasks.tensor_rows import TensorRows, as_batch
from hf_radial.tasks.turns import TasksInTurn

TASKS, ROWS, BATCH = 3, 40, 10


def columns(seed, rows=ROWS):
    """Three tasks that contradict each other: which of four numbers is largest, with the classes shifted by the task."""
    pixels = torch.rand(TASKS * rows, 4, generator=torch.Generator().manual_seed(seed)) * 16
    task = torch.arange(TASKS).repeat_interleave(rows)
    return {"pixels": pixels, "labels": (pixels.argmax(1) + task) % 4, "task": task}


HELD_OUT = columns(1, 50)


def make(folder, callbacks=None, every=3, **options):
    set_seed(0)
    train = TasksInTurn(columns(0), epochs=5, batch_size=BATCH)
    continual = ContinualCallback.of(train, HELD_OUT, every=every, level=0.5)
    args = TrainingArguments(
        output_dir=str(folder),
        **{
            "num_train_epochs": 1,
            "per_device_train_batch_size": BATCH,
            "learning_rate": 1e-2,
            "train_sampling_strategy": "sequential",
            "remove_unused_columns": False,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 7,
            **options,
        },
    )
    model = VectorMLPForClassification(VectorMLPConfig(input_size=4, hidden_size=16, num_classes=4))
    given = [continual] if callbacks is None else callbacks
    return Trainer(model=model, args=args, train_dataset=train, data_collator=as_batch, callbacks=given), continual


class Snapshots(TrainerCallback):
    """The model after each step, and what the event says."""

    def __init__(self):
        self.models, self.ends = {}, []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.models[state.global_step] = copy.deepcopy(model).eval()

    def on_task_end(self, args, state, control, *, task, rows, model, **kwargs):
        self.ends.append((state.global_step, task, {name: len(column) for name, column in rows.items()}))


def accuracy(model, task):
    own = HELD_OUT["task"] == task
    with torch.no_grad():
        logits = model(pixels=HELD_OUT["pixels"][own]).logits
    return (logits.argmax(-1) == HELD_OUT["labels"][own]).double().mean().item()


def test_matrix_logs_table_and_event_are_those_of_the_models_at_the_boundaries(tmp_path):
    watch = Snapshots()
    trainer, continual = make(tmp_path)
    trainer.add_callback(watch)
    trainer.train()
    ends = [20, 40, 60]
    for i, step in enumerate(ends):
        for j in range(TASKS):
            found = continual.accuracy[i, j]
            assert np.isnan(found) if j > i else found == pytest.approx(accuracy(watch.models[step], j))
    logs = [entry for entry in trainer.state.log_history if "continual/current" in entry]
    assert [entry["step"] for entry in logs] == ends
    expected = retention.summary(np.nan_to_num(continual.accuracy))
    assert {name: logs[-1][f"continual/{name}"] for name in expected} == pytest.approx(expected)
    assert len(set(continual.accuracy[np.tril_indices(TASKS)])) > 3  # the numbers tell the places apart
    assert watch.ends == [(step, task, {"pixels": ROWS, "labels": ROWS}) for task, step in enumerate(ends)]

    table = read_table(tmp_path / TABLE_FILE)
    assert sorted(set(table.columns["step"])) == ends
    model = watch.models[60]
    h = model.hidden[0](HELD_OUT["pixels"][HELD_OUT["task"] == 2] / 16)
    assert table.series("radius_mean", "hidden.0")[60] == pytest.approx(h.norm(dim=-1).mean().item(), rel=1e-5)
    assert table.series("dead_units", "hidden.0")[60] == pytest.approx(dead_share(h.relu()).item())
    assert table.series("weight_norm", "hidden.0.weight")[60] == pytest.approx(model.hidden[0].weight.norm().item(), rel=1e-5)
    assert set(table.series("effective_rank", "hidden.1")) == set(ends)
    # Plasticity: the first look at which half of the new task's answers are right.
    for task, end in enumerate(ends):
        first = next((s for s in range(3, 21, 3) if accuracy(watch.models[end - 20 + s], task) >= 0.5), None)
        assert table.series("steps_to_50").get(end) == first


def test_training_is_the_same_to_the_last_bit_without_it(tmp_path):
    with_it, _ = make(tmp_path / "a")
    without, _ = make(tmp_path / "b", callbacks=[])
    with_it.train()
    without.train()
    ours, theirs = with_it.model.state_dict(), without.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (with_it, without)]
    assert losses[0] == losses[1] and losses[0]


def test_a_resumed_run_has_the_matrix_of_an_unbroken_one(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 25, "lr_scheduler_type": "constant"}
    whole, expected = make(tmp_path, **options)
    whole.train()
    table = read_table(tmp_path / TABLE_FILE).columns
    resumed, found = make(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-25"))
    np.testing.assert_array_equal(found.accuracy, expected.accuracy)
    assert read_table(tmp_path / TABLE_FILE).columns == table


def test_beside_a_geometry_callback_there_is_one_table_with_both(tmp_path):
    trainer, continual = make(tmp_path)
    trainer.add_callback(GeometryCallback(every=30, metrics=["radial"], rows=16))
    trainer.train()
    table = read_table(tmp_path / TABLE_FILE)
    assert table.series("radius_mean", "hidden.0").keys() == {0, 20, 30, 40, 60}
    assert 60 in table.series("dead_units", "hidden.0") and not len(continual.table)


@pytest.mark.parametrize("shape", [(5, 4), (2, 6, 4)])
def test_answers_are_counted_as_one_by_one(shape):
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, shape[:-1], generator=torch.Generator().manual_seed(1))
    if len(shape) == 2:
        assert hits_of(logits, labels) == (sum(int(a.argmax() == b) for a, b in zip(logits, labels, strict=True)), 5)
        return
    labels[0, 2] = labels[1, 5] = -100
    pairs = [(r, t) for r in range(2) for t in range(5) if labels[r, t + 1] != -100]
    assert hits_of(logits, labels) == (sum(int(logits[r, t].argmax() == labels[r, t + 1]) for r, t in pairs), len(pairs))


def test_a_language_model_is_evaluated_on_its_next_tokens(tmp_path):
    set_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=5, n_positions=8))
    ids = torch.randint(0, 5, (24, 6))
    rows = {"input_ids": ids, "labels": ids, "task": torch.arange(2).repeat_interleave(12)}
    train = TasksInTurn(rows, epochs=1, batch_size=4)
    continual = ContinualCallback.of(train, rows)
    Trainer(model, arguments(tmp_path, 4), train_dataset=train, data_collator=as_batch, callbacks=[continual]).train()
    with torch.no_grad():
        logits = model.eval()(input_ids=ids[12:]).logits
    right = (logits[:, :-1].argmax(-1) == ids[12:, 1:]).double().mean()
    assert continual.accuracy[1, 1] == pytest.approx(right.item())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(steps=[], held_out=[]), "steps has 0 tasks"),
        (dict(steps=[3], held_out=[]), "held_out 0"),
        (dict(steps=[3], held_out=[{"x": torch.ones(2)}]), r"held_out\[0\] must hold rows with 'labels'"),
        (dict(steps=[3], held_out=[{"labels": torch.ones(2)}], every=0), "every=0"),
        (dict(steps=[3], held_out=[{"labels": torch.ones(2)}], level=2), "level=2"),
    ],
)
def test_bad_arguments_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        ContinualCallback(**given)


def test_a_run_of_another_length_is_refused_before_the_first_step(tmp_path):
    trainer, _ = make(tmp_path, num_train_epochs=2)
    with pytest.raises(ValueError, match="have 60 steps together, but the run has 120"):
        trainer.train()


def test_modular_and_text_sequences_go_through_a_trainer(tmp_path):
    """Small runs of the other two families, from the builder to the matrix."""
    data = load_task("modular_sequence", cache_dir=str(tmp_path / "cache"), change="operation", p=11, tasks=2)
    names = ("input_ids", "labels", "task")
    train, held_out = (TensorRows.of(data[split], names).columns for split in ("train", "validation"))
    turns = TasksInTurn(train, epochs=30, batch_size=20)
    model = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=11, embedding_size=8, hidden_size=32))
    continual = ContinualCallback.of(turns, held_out)
    Trainer(model, arguments(tmp_path, 20), train_dataset=turns, data_collator=as_batch, callbacks=[continual]).train()
    with torch.no_grad():
        seen = {task: {name: column[train["task"] == task] for name, column in train.items()} for task in (0, 1)}
        fit = [(model(seen[t]["input_ids"]).logits.argmax(-1) == seen[t]["labels"]).double().mean() for t in (0, 1)]
    assert fit[1] > 0.9 > fit[0]  # the second task is known, and it took the place of the first
    assert np.isfinite(continual.accuracy[1]).all()

    texts = {"cache_dir": str(tmp_path / "cache"), "tasks": 2, "characters": 20_000}
    data = load_task("text_sequence", **texts)
    tokenizer = task_tokenizer("text_sequence", **{k: v for k, v in texts.items() if k != "cache_dir"})
    columns = {}
    for split in ("train", "validation"):
        windows, tasks = [], []
        for task in (0, 1):
            ids = torch.tensor(tokenizer("".join(r["text"] for r in data[split] if r["task"] == task))["input_ids"])
            windows.append(ids[: len(ids) // 16 * 16].view(-1, 16)[:120])
            tasks.append(torch.full((len(windows[-1]),), task))
        columns[split] = {"input_ids": torch.cat(windows), "labels": torch.cat(windows), "task": torch.cat(tasks)}
    turns = TasksInTurn(columns["train"], epochs=2, batch_size=20)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, n_positions=16, vocab_size=len(tokenizer))
    continual = ContinualCallback.of(turns, columns["validation"])
    trainer = Trainer(
        GPT2LMHeadModel(config), arguments(tmp_path, 20), train_dataset=turns, data_collator=as_batch, callbacks=[continual]
    )
    trainer.train()
    a = continual.accuracy
    assert a[0, 0] > 0.1 and a[1, 1] > 0.1  # better than one letter of sixty
    assert "continual/retention" in trainer.state.log_history[-2]


def arguments(folder, batch):
    return TrainingArguments(
        str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        learning_rate=1e-2,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        lr_scheduler_type="constant",
    )
