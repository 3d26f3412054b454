"""A device-resident dataset gives the batches, random numbers and training of the ordinary loader; otherwise it is not used."""

from __future__ import annotations

import json
import logging

import accelerate
import datasets
import pytest
import torch
from accelerate.data_loader import DataLoaderShard, SeedableRandomSampler
from datasets import Array2D, Dataset, Features, List, Value
from reference import tiny_gpt2, token_rows
from resident_worker import DISTRIBUTED, P, Resident, Tiny, difference, is_resident, make, outcome, table
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler
from transformers import DefaultDataCollator, Trainer, default_data_collator
from two_processes import launch

from hf_radial import RadialArguments
from hf_radial.tasks.tensor_rows import TensorRows, as_batch
from hf_radial.training.fast import columns, resident
from hf_radial.training.fast.columns import read_columns
from hf_radial.training.fast.resident import ResidentMixin
from hf_radial.training.fast.resident_loader import ResidentLoader, epoch_order, known_samplers, takes_order
from hf_radial.training.mixin import RadialMixin


class Radial(RadialMixin, Trainer):
    pass


# Training is the same -------------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "full_batch": {"per_device_train_batch_size": 64},
    "accumulation": {"gradient_accumulation_steps": 3},
    "drop_last": {"dataloader_drop_last": True},
    "data_seed": {"data_seed": 11},
    "not_seedable": {"accelerator_config": {"use_seedable_sampler": False}},
    "split_batches": {"accelerator_config": {"split_batches": True, "even_batches": False}},
    "sequential": {"train_sampling_strategy": "sequential"},
    "group_by_length": {"train_sampling_strategy": "group_by_length"},
    "workers": {"dataloader_num_workers": 1, "max_steps": 20},
    "batch_metrics": {"eval_accumulation_steps": 2, "eval_do_concat_batches": False},
}


def answers(prediction):
    """What `Trainer` hands to metrics, as a number that depends on every row and on their order."""
    logits, labels = (x if isinstance(x, list) else [x] for x in (prediction.predictions, prediction.label_ids))
    weights = torch.arange(sum(map(len, labels)))
    return {"sum": float((torch.cat([torch.tensor(x) for x in logits]).argmax(1) * weights).sum())}


def train_both(folder, rows, more=None, base=(Trainer, Resident), resume=None, model=Tiny, **options):
    """The outcome by the ordinary loader and from the device."""
    outcomes = []
    for cls in base:
        given = {"compute_metrics": answers, **(more or {})}
        trainer = make(cls, folder / cls.__name__, rows, given, model, eval_strategy="steps", eval_steps=9, **options)
        trainer.train(resume_from_checkpoint=resume and str(folder / cls.__name__ / resume))
        outcomes.append(outcome(trainer))
        assert is_resident(trainer) is (cls is base[1])
        assert trainer.state.epoch > 1
    return outcomes


@pytest.mark.quick
@pytest.mark.parametrize("name", OPTIONS)
def test_training_is_the_same_to_the_bit(name, tmp_path):
    assert difference(*train_both(tmp_path, table(), **OPTIONS[name])) is None


def test_the_comparison_sees_one_random_number_more(tmp_path):
    class Draws(Resident):
        def get_train_dataloader(self):
            loader = super().get_train_dataloader()
            torch.rand(1)
            return loader

    assert "weights" in difference(*train_both(tmp_path, table(), base=(Trainer, Draws)))


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
@pytest.mark.parametrize("label", ["label", "labels"])
def test_names_types_and_order_of_a_batch_are_those_of_the_collator(form, label, tmp_path):
    rows = table(label).with_format(form)
    if default_data_collator(rows.__getitems__([0]))["labels"].is_floating_point():
        pytest.skip("this transformers makes floats of numpy's integers: the plain Trainer does not train on them either")
    # Two more columns than the model knows: one that is a string is left out by the collator.
    ordinary, ours = train_both(tmp_path, rows, model=Spare, remove_unused_columns=False, max_steps=16)
    assert difference(ordinary, ours) is None


class Spare(Tiny):
    def forward(self, input_ids, weight, labels, spare):
        output = super().forward(input_ids, weight, labels)
        self.seen[-1]["spare"] = spare
        return output


def test_training_with_the_penalty_is_the_same_to_the_bit(tmp_path):
    rows = Dataset.from_list(token_rows(30, True))
    outcomes = []
    for choice in ("never", "auto"):
        more = {"radial_lambda": 0.2}
        trainer = make(Radial, tmp_path, rows, more, tiny_gpt2(dropout=0.1), gradient_accumulation_steps=2, max_steps=12)
        trainer.args.resident_data = choice
        trainer.train()
        outcomes.append(outcome(trainer))
        assert is_resident(trainer) is (choice == "auto")
        assert "radial_penalty" in trainer.state.log_history[0]
    assert difference(*outcomes) is None


def test_tensors_of_ones_own_are_kept_too(tmp_path):
    rows = TensorRows({"input_ids": torch.randint(P, (33, 2)), "weight": torch.rand(33), "labels": torch.randint(P, (33,))})
    assert difference(*train_both(tmp_path, rows, {"data_collator": as_batch}, remove_unused_columns=False)) is None


@pytest.mark.parametrize("steps", [19, 26], ids=["mid_epoch", "end_of_epoch"])  # an epoch has 13
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_goes_on_where_it_was(steps, accumulation, tmp_path):
    if accumulation == 2:
        steps = {19: 11, 26: 18}[steps]  # and here 9
    options = {
        "save_strategy": "steps",
        "save_steps": steps,
        "save_total_limit": 1,
        "per_device_train_batch_size": 4,
    }
    if accumulation == 2:
        options.update(gradient_accumulation_steps=2, per_device_train_batch_size=3)
    train_both(tmp_path / "broken", table(), max_steps=steps, **options)
    ordinary, ours = train_both(
        tmp_path / "broken", table(), max_steps=steps + 21, resume=f"checkpoint-{steps}", **{**options, "save_strategy": "no"}
    )
    assert difference(ordinary, ours) is None


def test_two_processes_train_the_same_to_the_bit(tmp_path):
    launch("resident_worker.py", str(tmp_path))
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == dict.fromkeys(DISTRIBUTED)


def bookkeeping(loader):
    """What `Accelerator` knows of a loader at every batch."""
    seen = []
    for _ in range(2):
        for batch in loader:
            state = loader.gradient_state
            facts = [state.end_of_dataloader, state.remainder, state.in_dataloader, loader.iteration, len(batch["labels"])]
            seen.append(facts)
        seen.append([loader.end_of_dataloader, loader.remainder, loader.gradient_state.in_dataloader, loader.iteration])
    sizes = [getattr(loader, name, None) for name in ("total_batch_size", "total_dataset_length")]
    return seen, len(loader), sizes, loader.set_epoch(7), loader.iteration


@pytest.mark.parametrize("drop_last", [False, True])
def test_what_accelerate_knows_of_a_loader_is_the_same(drop_last, tmp_path):
    loaders = []
    for cls in (Trainer, Resident):
        trainer = make(cls, tmp_path, table(), dataloader_drop_last=drop_last)
        train = trainer.get_train_dataloader()
        loaders.append([train, trainer.get_eval_dataloader(), trainer.get_test_dataloader(table())])
        loaders[-1].append(accelerate.skip_first_batches(train, 5))
    for ordinary, ours in zip(*loaders, strict=True):
        assert isinstance(ours, DataLoader)
        assert isinstance(ours, DataLoaderShard)
        assert bookkeeping(ordinary) == bookkeeping(ours)
        assert list(ours.dataset[3:5]) == list(ordinary.dataset[3:5])
        assert ours.dataset.column_names == ordinary.dataset.column_names


# The order ------------------------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("kind", [RandomSampler, SeedableRandomSampler])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_order_is_that_of_the_sampler(kind, seed):
    torch.manual_seed(seed)
    theirs, ours = kind(range(101)), kind(range(101))
    state = torch.random.get_rng_state()
    expected, after = [list(theirs) for _ in range(3)], torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    assert [epoch_order(ours).tolist() for _ in range(3)] == expected
    assert torch.equal(torch.random.get_rng_state(), after)
    assert kind in known_samplers()


def test_other_samplers_are_asked_themselves():
    rows, generator = range(9), torch.Generator()
    assert takes_order(SequentialSampler(rows))
    assert takes_order(RandomSampler(rows))
    assert not takes_order(RandomSampler(rows, generator=generator))
    assert not takes_order(RandomSampler(rows, replacement=True))
    assert not takes_order(RandomSampler(rows, num_samples=5))
    assert not takes_order(WeightedRandomSampler([1.0] * 9, 9))


def test_a_library_that_shuffles_in_another_way_is_followed(tmp_path, monkeypatch):
    def backwards(self):
        return reversed(torch.randperm(len(self.data_source)).tolist())

    known_samplers.cache_clear()
    monkeypatch.setattr(RandomSampler, "__iter__", backwards)
    try:
        assert known_samplers() == ()
        assert difference(*train_both(tmp_path, table())) is None
    finally:
        known_samplers.cache_clear()


class Backwards(torch.utils.data.Sampler):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return reversed(range(len(self.rows)))


def test_a_sampler_of_the_users_is_respected(tmp_path):
    class Ordinary(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return Backwards(self.train_dataset)

    class Ours(ResidentMixin, Ordinary):
        pass

    ordinary, ours = train_both(tmp_path, table(), base=(Ordinary, Ours))
    assert difference(ordinary, ours) is None
    assert ours["batches"][0]["input_ids"].tolist() == [table()[i]["input_ids"] for i in (48, 47, 46, 45)]


def test_a_loader_of_the_users_is_respected(tmp_path):
    class Own(Resident):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset.select_columns(["input_ids"]), 4, collate_fn=default_data_collator)

    trainer = make(Own, tmp_path, table())
    assert type(trainer.get_train_dataloader()) is DataLoader


# What is kept, and what is not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "int64", "uint32", "float16", "float32", "float64", "bool"])
@pytest.mark.parametrize("feature", ["value", "list", "fixed", "nested", "array"])
@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_all_rows_are_those_that_the_collator_makes(kind, feature, form):
    if feature == "array" and kind == "float16":
        pytest.skip("datasets knows no Array2D of float16")
    value = Value(kind)
    features = {
        "value": value,
        "list": List(value),
        "fixed": List(value, length=2),
        "nested": List(List(value)),
        "array": Array2D((2, 3), kind),
    }
    shape = {"value": (), "list": (2,), "fixed": (2,), "nested": (2, 3), "array": (2, 3)}[feature]
    values = torch.randint(0, 100, (90, *shape), generator=torch.Generator().manual_seed(0)) / (7 if "float" in kind else 1)
    values = values.bool() if kind == "bool" else values if "float" in kind else values.long()
    rows = Dataset.from_dict({"x": values.tolist()}, Features(x=features[feature])).with_format(form)
    for table_or_part in (rows, rows.select(range(5, 80)), rows.shuffle(seed=1)):
        expected = default_data_collator(table_or_part.__getitems__(list(range(len(table_or_part)))))
        assert difference(read_columns(table_or_part, default_data_collator, 10**9), expected) is None


def changed(**columns):
    rows = table().remove_columns([name for name in columns if name in table().column_names])
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows


def late(values, last):
    """A column whose last value alone is another: no sample of the first rows shows it."""
    return [*values[:-3], last, *values[-2:]]


LISTS = [[1, 2]] * 49
DECLINED = {
    "none": (lambda: changed(weight=late([0.5] * 49, None)), {}, "missing"),
    "none_in_list": (lambda: changed(input_ids=late(LISTS, [1, None])), {}, "missing"),
    "none_row": (lambda: changed(input_ids=late(LISTS, None)), {}, "missing"),
    "ragged": (lambda: changed(input_ids=late(LISTS, [1])), {}, "input_ids.*differ in length, 1 to 2"),
    "strings": (lambda: changed(input_ids=[["a", "b"]] * 49), {}, "make no batch"),
    "string_labels": (lambda: changed(label=["a"] * 49), {}, "make no batch"),
    "unsigned": (lambda: table().cast_column("label", Value("uint64")), {}, "uint64"),
    "two_labels": (lambda: changed(labels=[0] * 49), {"remove_unused_columns": False}, "label and labels make the same"),
    "transform": (lambda: table().with_transform(lambda rows: rows), {}, "format 'custom'"),
    "format_options": (lambda: table().with_format("torch", dtype=torch.float64), {}, "'torch' with"),
    "pandas": (lambda: table().with_format("pandas"), {}, "format 'pandas'"),
    "streaming": (lambda: table().to_iterable_dataset(), {}, "DataLoaderDispatcher"),
    "list": (lambda: table().remove_columns(["note", "spare"]).to_list(), {}, "a list, is neither"),
    "dispatched": (table, {"accelerator_config": {"dispatch_batches": True}}, "DataLoaderDispatcher"),
    "persistent": (table, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}, "persistent_workers"),
    "too_large": (table, {}, "0.0 MB, more than the"),
}


def stack_doubled(rows):
    return default_data_collator(rows + rows)


@pytest.mark.parametrize("name", DECLINED)
def test_what_cannot_be_kept_is_trained_from_where_it_is(name, tmp_path, monkeypatch):
    make_rows, options, reason = DECLINED[name]
    monkeypatch.setattr(columns, "SAMPLED_ROWS", 8)  # not the one that is another
    if name == "too_large":
        monkeypatch.setattr(resident, "MOST_BYTES", 49 * 4 * 8 - 49 * 4 - 1)
    trainer = make(Resident, tmp_path, make_rows(), **options)
    assert type(trainer.get_train_dataloader()) is type(make(Trainer, tmp_path, make_rows(), **options).get_train_dataloader())
    assert type(trainer.get_eval_dataloader()) is not ResidentLoader
    trainer.args.resident_data = "always"
    with pytest.raises(ValueError, match=f"(?s)resident_data='always'.*{reason}.*resident_data='auto'"):
        trainer.get_train_dataloader()


def test_a_table_that_just_fits_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "MOST_BYTES", 49 * 4 * 8 - 49 * 4)  # two operands and a label of 8 bytes, a weight of 4
    trainer = make(Resident, tmp_path, table())
    assert type(trainer.get_train_dataloader()) is ResidentLoader
    monkeypatch.setattr(resident, "free_memory", lambda device: 5000)
    trainer.train_dataset = table("labels")
    assert type(trainer.get_train_dataloader()) is not ResidentLoader


@pytest.mark.parametrize(
    ("collator", "kept"),
    [
        (default_data_collator, True),
        (DefaultDataCollator(), True),
        (DefaultDataCollator(return_tensors="np"), False),
        (stack_doubled, False),
        (lambda rows: default_data_collator(rows), False),
        (None, True),
    ],
)
def test_only_collators_that_are_known_to_stack(collator, kept, tmp_path):
    trainer = make(Resident, tmp_path, table(), {"data_collator": collator})
    assert (type(trainer.get_train_dataloader()) is ResidentLoader) is kept


def test_a_dataset_class_of_the_users_is_respected(tmp_path):
    class Noisy(Dataset):
        def __getitems__(self, keys):
            return [{**row, "weight": 0.0} for row in super().__getitems__(keys)]

    rows = table().remove_columns(["note", "spare"])
    rows = Noisy(rows.data, info=rows.info, fingerprint=rows._fingerprint, indices_table=rows._indices)
    trainer = make(Resident, tmp_path, table().remove_columns(["note", "spare"]), remove_unused_columns=False)
    assert type(trainer.get_train_dataloader()) is ResidentLoader
    trainer.train_dataset = rows  # with the fingerprint of the other
    loader = trainer.get_train_dataloader()
    assert type(loader) is not ResidentLoader
    assert next(iter(loader))["weight"].tolist() == [0.0] * 4


def test_it_can_be_forbidden_and_the_choice_is_checked(tmp_path):
    trainer = make(Resident, tmp_path, table())
    trainer.args.resident_data = "never"
    assert type(trainer.get_train_dataloader()) is DataLoaderShard
    trainer.args.resident_data = "always"
    assert type(trainer.get_train_dataloader()) is ResidentLoader
    with pytest.raises(ValueError, match="resident_data='often' is unknown; choose one of auto, always, never"):
        RadialArguments(str(tmp_path), resident_data="often")


# Over a run -----------------------------------------------------------------------------------------------------------


def test_another_training_set_is_noticed(tmp_path):
    trainer = make(Resident, tmp_path, table(), max_steps=3)
    trainer.train()
    trainer.train_dataset = table().map(lambda row: {"label": (row["label"] + 1) % P})
    trainer.model.seen.clear()
    trainer.train()
    for batch in trainer.model.seen:
        assert torch.equal(batch["labels"], (batch["input_ids"].sum(1) + 1) % P)
    trainer.train_dataset = changed(weight=late([0.5] * 49, None))
    assert type(trainer.get_train_dataloader()) is DataLoaderShard


def test_a_dataset_is_read_once_and_told_once(tmp_path, monkeypatch):
    messages, reads = [], []
    monkeypatch.setattr(columns, "SAMPLED_ROWS", 8)
    handler = logging.Handler()
    handler.emit = lambda record: messages.append((record.levelname, record.getMessage()))
    monkeypatch.setattr(resident.logger, "handlers", [handler])
    monkeypatch.setattr(resident.logger, "level", logging.DEBUG)
    resident.logger.manager._clear_cache()
    read = resident.read_columns
    monkeypatch.setattr(resident, "read_columns", lambda *args: reads.append(args[0]) or read(*args))
    ragged = changed(input_ids=late(LISTS, [1]))
    held_out = {"held_out": table(), "ragged": ragged}
    trainer = make(Resident, tmp_path, table(), {"eval_dataset": held_out}, max_steps=2, dataloader_num_workers=1)
    for _ in range(2):
        trainer.train()
        trainer.get_eval_dataloader("held_out")
        trainer.get_eval_dataloader("ragged")
    assert len(reads) == 3
    info = [message for level, message in messages if level == "INFO"]
    assert info == [
        f"{name} data: 49 rows, 0.0 MB, are kept on cpu; dataloader_num_workers=1 is ignored"
        for name in ("train", "eval held_out")
    ]
    assert any("eval ragged" in message and "differ in length" in message for level, message in messages if level == "DEBUG")


def test_what_a_model_writes_into_its_batch_does_not_reach_the_table(tmp_path):
    class Writes(Tiny):
        def forward(self, input_ids, weight, labels):
            output = super().forward(input_ids.clone(), weight.clone(), labels.clone())
            for tensor in (input_ids, weight, labels):
                tensor.zero_()
            return output

    trainer = make(Resident, tmp_path, table(), model=Writes(), max_steps=30, eval_strategy="steps", eval_steps=9)
    trainer.train()
    trainer.evaluate()
    columns = trainer.get_train_dataloader().dataset.columns
    assert difference(columns, read_columns(table().remove_columns(["note", "spare"]), default_data_collator, 10**6)) is None
    assert columns["input_ids"].sum() > 0


def test_the_datasets_library_still_tells_contents_apart():
    rows = table()
    assert rows.remove_columns("note")._fingerprint == rows.remove_columns("note")._fingerprint
    assert rows._fingerprint != rows.select(range(5))._fingerprint != rows.with_format("torch")._fingerprint
    assert datasets.Dataset.from_dict({"x": [1]})._fingerprint != datasets.Dataset.from_dict({"x": [2]})._fingerprint
