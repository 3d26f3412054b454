"""Sequences of tasks: splits without leaks over all tasks, task 0 as it is, draws by seed alone, and batches in turn."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hf_radial.tasks import leakage, load_task, task_tokenizer
from hf_radial.tasks.image_sequence import ImageSequenceConfig, task_images
from hf_radial.tasks.modular_sequence import ModularSequenceConfig, modular_rows
from hf_radial.tasks.turns import TasksInTurn, batches_in_turn

SMALL = {
    "image_sequence": [
        dict(change=change, tasks=4, train_size=200, validation_size=50, test_size=60) for change in ("pixels", "labels")
    ],
    "modular_sequence": [dict(change=change, tasks=4, p=11) for change in ("operation", "modulus")],
    "text_sequence": [dict(tasks=3, characters=20_000)],
}
CASES = [(task, fields) for task, given in SMALL.items() for fields in given]
BAD_INPUT = [
    ("image_sequence", {"change": "pixel"}, "change='pixel' is unknown; did you mean 'pixels'"),
    ("image_sequence", {"tasks": 0}, "tasks must be a whole number from 1"),
    ("image_sequence", {"train_size": 1700}, "there are only 1797 different ones"),
    ("modular_sequence", {"p": 4}, "p must be a whole number from 5 to 1000"),
    ("modular_sequence", {"train_fraction": 0.999}, "to the split 'validation'|to the split 'test'"),
    ("text_sequence", {"characters": 9}, "characters must be a whole number from 10000"),
]


@pytest.mark.parametrize(("task", "fields", "message"), BAD_INPUT)
def test_bad_input_is_named(task, fields, message):
    with pytest.raises(ValueError, match=message):
        load_task(task, **fields)


@pytest.mark.parametrize(("task", "fields"), CASES)
def test_a_stream_has_the_rows_of_the_table_task_by_task(task, fields, tmp_path):
    table = load_task(task, cache_dir=str(tmp_path), **fields)
    stream = load_task(task, cache_dir=str(tmp_path), streaming=True, **fields)
    assert list(table) == ["train", "validation", "test"]
    for split in table:
        assert list(stream[split]) == list(table[split])
        tasks = table[split]["task"][:]
        assert tasks == sorted(tasks) and set(tasks) == set(range(fields["tasks"]))
        assert stream[split].num_shards == fields["tasks"]


@pytest.mark.parametrize("change", ["pixels", "labels"])
def test_no_held_out_image_is_trained_on_in_any_task(change):
    config = ImageSequenceConfig(change=change, tasks=6)
    first = {split: task_images(config, split, 0)[0] for split in ("train", "validation", "test")}
    digits = {row.tobytes(): i for i, row in enumerate(load_digits().data.astype(np.uint8))}
    numbers = {split: {digits[row.tobytes()] for row in rows} for split, rows in first.items()}
    assert sum(map(len, numbers.values())) == 1797  # all images, each once
    for task in range(6):
        for split in first:
            pixels, _ = task_images(config, split, task)
            assert (np.sort(pixels, axis=1) == np.sort(first[split], axis=1)).all()  # the same images in the same order
            same = (pixels == first[split]).all()
            assert same == (task == 0 or change == "labels")


def test_labels_change_by_one_permutation_a_task():
    config = ImageSequenceConfig(change="labels", tasks=5)
    old = task_images(config, "train", 0)[1]
    maps = []
    for task in range(1, 5):
        new = task_images(config, "train", task)[1]
        pairs = set(zip(old.tolist(), new.tolist(), strict=True))
        assert len(pairs) == 10 and len({b for _, b in pairs}) == 10
        maps.append(tuple(sorted(pairs)))
        held_out = zip(task_images(config, "test", 0)[1].tolist(), task_images(config, "test", task)[1].tolist(), strict=True)
        assert set(held_out) <= pairs
    assert len(set(maps)) == 4


def test_draws_depend_on_the_seed_and_not_on_the_number_of_tasks():
    few, many = (task_images(ImageSequenceConfig(tasks=tasks), "train", 3)[0] for tasks in (4, 400))
    other = task_images(ImageSequenceConfig(tasks=4, seed=1), "train", 3)[0]
    assert (few == many).all() and not (few == other).all()


def test_modular_answers_and_splits(tmp_path):
    config = ModularSequenceConfig(change="operation", p=11, tasks=4)
    pairs = np.arange(121)
    seen = set()
    for task in range(4):
        operands, answers = modular_rows(config, pairs, task)
        table = np.zeros((11, 11), dtype=int)
        table[operands[:, 0], operands[:, 1]] = answers
        x, y, z = (table[1, 0] - table[0, 0]) % 11, (table[0, 1] - table[0, 0]) % 11, table[0, 0]
        assert x and y and all(table[a, b] == (x * a + y * b + z) % 11 for a in range(11) for b in range(11))
        seen.add((x, y, z))
    assert len(seen) == 4 and (1, 1, 0) in seen
    for change in ("operation", "modulus"):
        splits = load_task("modular_sequence", cache_dir=str(tmp_path), change=change, p=11, tasks=4)
        assert leakage(splits, reorderings=False) == {"ordered": 0}
    smaller = ModularSequenceConfig(change="modulus", p=11, tasks=9)
    moduli = set()
    for task in range(9):
        operands, answers = modular_rows(smaller, pairs, task)
        modulus = int(operands.max()) + 1
        assert len(operands) == modulus**2 and (answers == operands.sum(1) % modulus).all() and 6 <= modulus <= 11
        moduli.add(modulus)
    assert len(moduli) > 2


def test_texts_differ_in_their_letters_alone(tmp_path):
    splits = load_task("text_sequence", cache_dir=str(tmp_path), tasks=3, characters=20_000)
    for rows in splits.values():
        by_task = [[row["text"] for row in rows if row["task"] == task] for task in range(3)]
        plain = load_task("text", cache_dir=str(tmp_path), characters=20_000, train_fraction=0.8, validation_fraction=0.1)
        assert by_task[0] in [list(part["text"]) for part in plain.values()]
        for other in by_task[1:]:
            pairs = {pair for a, b in zip(by_task[0], other, strict=True) for pair in zip(a, b, strict=True)}
            assert len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})  # one letter for each
            assert all(a == b for a, b in pairs if not a.isalpha()) and any(a != b for a, b in pairs)
    tokenizer = task_tokenizer("text_sequence", tasks=3, characters=20_000)
    text = splits["test"][-1]["text"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]).strip() == text.strip()


def test_each_epoch_has_new_orders_of_the_own_rows_and_replay_takes_kept_rows_of_earlier_tasks():
    row, of = batches_in_turn(50, 2, epochs=3, batch_size=20, seed=4)
    assert row.shape == (6, 20) and (of == 2).all()
    epochs = row.reshape(3, 40)
    assert all(len(set(epoch)) == 40 for epoch in epochs.tolist()) and not (epochs[0] == epochs[1]).all()
    mixed, sources = batches_in_turn(50, 2, epochs=3, batch_size=20, seed=4, replay=5, kept=7)
    assert (mixed[:, :15] == row[:, :15]).all() and (sources[:, :15] == 2).all()
    assert set(sources[:, 15:].ravel()) == {0, 1} and mixed[:, 15:].max() == 6
    assert (batches_in_turn(50, 0, epochs=1, batch_size=20, seed=4, replay=5, kept=7)[1] == 0).all()
    with pytest.raises(ValueError, match="batch_size=51"):
        batches_in_turn(50, 0, epochs=1, batch_size=51, seed=0)
    with pytest.raises(ValueError, match="replay=20"):
        batches_in_turn(50, 0, epochs=1, batch_size=20, seed=0, replay=20, kept=1)


def test_a_dataset_in_turn_gives_the_rows_of_its_batches():
    columns = {"x": torch.arange(90), "task": torch.arange(3).repeat_interleave(30)}
    turns = TasksInTurn(columns, epochs=2, batch_size=10, seed=1, replay=2, kept=3)
    assert turns.steps == [6, 6, 6] and len(turns) == 180
    for step in range(18):
        batch = turns.__getitems__(list(range(10 * step, 10 * step + 10)))
        assert set(batch) == {"x"}
        task, x = step // 6, batch["x"]
        own, old = x[:8], x[8:]
        assert ((own // 30) == task).all()
        assert (old // 30 == task).all() if task == 0 else ((old // 30 < task) & (old % 30 < 3)).all()
        assert turns[10 * step]["x"] == x[0]
    assert turns.rows_of(1)["x"].tolist() == list(range(30, 60))
    with pytest.raises(ValueError, match="must come in this order"):
        TasksInTurn({"task": torch.tensor([1, 0])}, epochs=1, batch_size=1)
    with pytest.raises(ValueError, match="kept=31"):
        TasksInTurn(columns, epochs=1, batch_size=10, replay=1, kept=31)
