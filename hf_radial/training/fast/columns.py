"""A dataset as tensors: all rows as one batch, or the reason why not (`read_columns`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DefaultDataCollator, default_data_collator

from hf_radial.tasks.tensor_rows import TensorRows, as_batch

if TYPE_CHECKING:
    import pyarrow

SAMPLED_ROWS = 64
LABELS = ("label", "label_ids", "labels")  # columns that the default collator renames to "labels"


class NotResidentError(ValueError):
    """The dataset cannot be kept on the device; the message says why."""


def read_columns(dataset: Any, collate: Any, most_bytes: int) -> dict[str, Tensor]:
    """All rows as one batch on the CPU, name to tensor `(rows, ...)`, equal to what `collate` makes of them to the last bit.

    `collate` is called on a sample of the rows. Its batch gives the names, their order, types and shapes. The values are read
    from the dataset's table at once and compared with the sample.

    Args:
        dataset: a `datasets.Dataset` or `TensorRows`.
        collate: the collator; one that only stacks rows, like `transformers.default_data_collator`.
        most_bytes: the most bytes that the tensors may take.

    Raises:
        NotResidentError: a batch might not be rows of these tensors, or they take more than `most_bytes`.

    Example:
        >>> from datasets import Dataset
        >>> dataset = Dataset.from_dict({"x": [[0, 1], [2, 3]], "label": [True, False]})
        >>> columns = read_columns(dataset, default_data_collator, most_bytes=1000)
        >>> {name: column.tolist() for name, column in columns.items()}
        {'labels': [1, 0], 'x': [[0, 1], [2, 3]]}
    """
    from datasets import Dataset

    if type(dataset) not in (Dataset, TensorRows):
        raise NotResidentError(f"the dataset, a {type(dataset).__name__}, is neither a datasets.Dataset nor TensorRows")
    if not (collate in (default_data_collator, as_batch) or collate == DefaultDataCollator(return_tensors="pt")):
        raise NotResidentError(f"the data_collator, {_name(collate)}, is not known to only stack rows")
    if type(dataset) is Dataset:
        _check_format(dataset.format)
    count = len(dataset)
    if count == 0:
        raise NotResidentError("the dataset has no rows")
    rows = sorted({round(i * (count - 1) / (SAMPLED_ROWS - 1)) for i in range(SAMPLED_ROWS)})
    sample = _sample(dataset, collate, rows)
    size = sum(column.nbytes for column in sample.values()) * count // len(rows)
    if size > most_bytes:
        raise NotResidentError(f"its rows take {megabytes(size)}, more than the {megabytes(most_bytes)} allowed")
    if isinstance(dataset, TensorRows):
        columns = {name: dataset.columns[name] for name in sample if name in dataset.columns}
    else:
        columns = _columns_of_table(dataset, sample)
    if list(columns) != list(sample):
        raise NotResidentError(f"the batch has {', '.join(sample)}, the dataset {', '.join(columns)}")
    for name, column in columns.items():
        if not _same(column[torch.tensor(rows, device=column.device)].cpu(), sample[name]):
            raise NotResidentError(f"column {name!r}: the batch is not what is in the table")
    return columns


def _check_format(how: Mapping[str, Any]) -> None:
    if how["type"] not in (None, "python", "torch", "numpy") or how["format_kwargs"]:
        # A transform may give another result at each call.
        options = f" with {how['format_kwargs']}" if how["format_kwargs"] and how["type"] != "custom" else ""
        raise NotResidentError(f"the dataset has the format {how['type']!r}{options}")


def _sample(dataset: Any, collate: Any, rows: Sequence[int]) -> dict[str, Tensor]:
    """The batch of a few rows, as a `DataLoader` makes it."""
    try:
        batch = collate(dataset.__getitems__(list(rows)))
    except Exception as error:  # training raises a better message
        raise NotResidentError(f"some of its rows make no batch: {error}") from error
    for name, column in batch.items():
        if not isinstance(column, Tensor) or column.ndim == 0 or len(column) != len(rows) or column.requires_grad:
            raise NotResidentError(f"{name!r} of a batch is not one tensor with a row for each row")
    if not batch:
        raise NotResidentError("a batch of its rows is empty")
    return {name: column.cpu() for name, column in batch.items()}


def _columns_of_table(dataset: Any, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of `sample` with all rows of the dataset, in the sample's types."""
    import pyarrow

    shown = list(dataset[0])
    if len(answers := [name for name in shown if name in LABELS]) > 1:
        raise NotResidentError(f"the columns {' and '.join(answers)} make the same labels")
    types = dataset.features.arrow_schema
    # The collator leaves strings out of a batch.
    strings = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    wanted = [name for name in shown if name in LABELS or not any(test(types.field(name).type) for test in strings)]
    if not wanted:
        raise NotResidentError("the dataset has no column of numbers")
    table = dataset.with_format("arrow", columns=wanted)[:]
    source = {"labels" if name in LABELS else name: name for name in wanted}
    columns: dict[str, Tensor] = {}
    for name in [*sample, *(set(source) - set(sample))]:
        if name not in sample or name not in source:
            raise NotResidentError(f"column {name!r} is in the {'batch' if name in sample else 'dataset'} alone")
        try:
            values = fixed_shape(table.column(source[name]))
            columns[name] = torch.from_numpy(np.array(values, dtype=sample[name][:0].numpy().dtype))
        except (TypeError, ValueError) as error:
            raise NotResidentError(f"column {source[name]!r}: {error}") from error
    return columns


def fixed_shape(column: pyarrow.ChunkedArray) -> np.ndarray:
    """A column of numbers, or of nested lists of one shape, as an array `(rows, ...)`.

    Raises:
        ValueError: something is missing, lists differ in length, or they hold something else.

    Example:
        >>> import pyarrow
        >>> fixed_shape(pyarrow.chunked_array([[[1, 2]], [[3, 4], [5, 6]]])).tolist()
        [[1, 2], [3, 4], [5, 6]]
    """
    import pyarrow
    import pyarrow.compute

    types, array = pyarrow.types, column.combine_chunks()
    shape = [len(array)]
    while True:
        if isinstance(array, pyarrow.ExtensionArray):
            array = array.storage
        if array.null_count:
            raise ValueError("a value is missing (None)")
        if types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
            lengths = pyarrow.compute.min_max(pyarrow.compute.list_value_length(array)).as_py()
            if lengths["min"] != lengths["max"]:
                raise ValueError(f"its rows differ in length, {lengths['min']} to {lengths['max']}")
            shape.append(lengths["max"] or 0)
            array = array.flatten()
        elif types.is_integer(array.type) or types.is_floating(array.type) or types.is_boolean(array.type):
            if types.is_uint64(array.type):
                raise ValueError("tensors do not hold all numbers of type uint64")
            return array.to_numpy(zero_copy_only=False).reshape(shape)
        else:
            raise ValueError(f"values of type {array.type} are no numbers")


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaN included."""
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) if a.ndim else False


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def megabytes(size: float) -> str:
    """A size in bytes as text."""
    return f"{size / 1e6:.1f} MB"
