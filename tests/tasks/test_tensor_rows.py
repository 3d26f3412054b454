"""Rows as tensors: a `DataLoader` and a `Trainer` get the same batches as from plain rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, default_data_collator

from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

pytestmark = pytest.mark.quick

PLAIN = Dataset.from_list([{"input_ids": [a, b], "labels": (a + b) % 7, "note": "x"} for a in range(7) for b in range(7)])


def test_a_dataloader_makes_the_batches_of_plain_rows() -> None:
    rows = TensorRows.of(PLAIN)
    ours = DataLoader(rows, 10, shuffle=True, collate_fn=as_batch, generator=torch.Generator().manual_seed(3))
    plain = PLAIN.remove_columns("note")
    theirs: Any = DataLoader(
        plain, 10, shuffle=True, collate_fn=default_data_collator, generator=torch.Generator().manual_seed(3)
    )
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.keys() == reference.keys()
        assert all(torch.equal(mine[name], reference[name]) and mine[name].dtype == torch.int64 for name in mine)


def test_a_trainer_shuffles_each_epoch_and_ends_with_the_weights_of_plain_rows(tmp_path: Any) -> None:
    weights, orders = [], []
    for name, rows, collator in (
        ("ours", TensorRows.of(PLAIN), as_batch),
        ("plain", PLAIN.remove_columns("note"), default_data_collator),
    ):
        args = TrainingArguments(
            str(tmp_path / name),
            num_train_epochs=2,
            per_device_train_batch_size=10,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        torch.manual_seed(0)
        model = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8))
        seen: list[list[int]] = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["labels"].tolist()), with_kwargs=True
        )
        Trainer(model=model, args=args, train_dataset=rows, data_collator=collator).train()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        orders.append(seen)
    assert torch.equal(*weights)
    assert orders[0] == orders[1]
    assert orders[0][:5] != orders[0][5:], "each epoch has its own order"


def test_bad_columns_are_named() -> None:
    with pytest.raises(ValueError, match="no column answers"):
        TensorRows.of(PLAIN, ["input_ids", "answers"])
    with pytest.raises(ValueError, match="'input_ids' differ in length"):
        TensorRows.of(Dataset.from_list([{"input_ids": [1]}, {"input_ids": [1, 2]}]), ["input_ids"])
    with pytest.raises(ValueError, match="equally many rows"):
        TensorRows({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="at least one column"):
        TensorRows({})
    with pytest.raises(IndexError):
        TensorRows.of(PLAIN)[49]
