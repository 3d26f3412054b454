"""Rows of one shape as tensors. For very small models, where indexing and collating single rows would take most of a step.

In here: `TensorRows`, a dataset that gives a `DataLoader` complete batches, and `as_batch`, the collator that accepts them. Not
in here: order and batch size. They remain those of the `DataLoader` (and of `Trainer`: shuffled by its seed, resumable).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import default_data_collator

if TYPE_CHECKING:
    import datasets


class TensorRows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Columns with the same number of rows, each one tensor.

        Trainer(
            args=TrainingArguments(remove_unused_columns=False, ...),
            train_dataset=TensorRows.of(dataset),
            data_collator=as_batch,
            ...
        )

    `remove_unused_columns` looks for columns in each row of a list, so it must be off. Name the columns that you want.

    Args:
        columns: name to tensor `(rows, ...)`.

    Raises:
        ValueError: there is no column, or the columns differ in length.

    Example:
        >>> rows = TensorRows({"input_ids": torch.tensor([[0, 1], [2, 3], [4, 5]]), "labels": torch.tensor([1, 5, 9])})
        >>> len(rows), rows[1]
        (3, {'input_ids': tensor([2, 3]), 'labels': tensor(5)})
        >>> rows.__getitems__([2, 0])["labels"]
        tensor([9, 1])
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if not lengths or len(set(lengths.values())) > 1:
            raise ValueError(f"columns must have equally many rows, at least one column; their lengths are {lengths}")
        self.columns = dict(columns)

    @classmethod
    def of(cls, dataset: datasets.Dataset, names: Iterable[str] = ("input_ids", "labels")) -> TensorRows:
        """The named columns of a dataset, read at once.

        Raises:
            ValueError: a column is missing, or its rows differ in shape.
        """
        missing = [name for name in names if name not in dataset.column_names]
        if missing:
            raise ValueError(f"names: the dataset has no column {', '.join(missing)}, but {', '.join(dataset.column_names)}")
        columns: dict[str, Tensor] = {}
        for name in names:
            rows = dataset.with_format("numpy", columns=[name])[:][name]
            if rows.dtype == object:
                raise ValueError(f"names: the rows of column {name!r} differ in length; TensorRows needs rows of one shape")
            columns[name] = torch.tensor(rows)
        return cls(columns)

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One row. IndexError past either end."""
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these indices as one batch, name to tensor `(len(indices), ...)`. A `DataLoader` calls this."""
        picked = torch.as_tensor(indices)
        return {name: column[picked] for name, column in self.columns.items()}

    def first(self, count: int) -> TensorRows:
        """The first `count` rows, or all rows if there are fewer."""
        return TensorRows({name: column[:count] for name, column in self.columns.items()})


def as_batch(rows: Any) -> dict[str, Any]:
    """The batch for a `DataLoader`. A ready batch passes unchanged; a list of rows is stacked by the default collator.

    >>> as_batch([{"labels": torch.tensor(3)}, {"labels": torch.tensor(4)}])
    {'labels': tensor([3, 4])}
    """
    return dict(rows) if isinstance(rows, Mapping) else default_data_collator(rows)
