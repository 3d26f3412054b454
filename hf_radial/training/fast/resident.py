"""Device-resident datasets: a table that fits is kept on the device, and batches are gathered there instead of collated row by
row.

In here: reading a dataset into tensors, or the reason why not (`read_columns`); the `DataLoader` that takes its batches from
them (`ResidentLoader`); and `ResidentMixin`, which lets a `Trainer` use it. Not in here: the order of the rows. The loader that
the trainer made decides which row comes when, in which process, and what is drawn from which random generator. Training is the
same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, SeedableRandomSampler
from accelerate.utils import synchronize_rng_states
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from transformers import DefaultDataCollator, Trainer, default_data_collator
from transformers.utils import logging

from hf_radial.sites.preserve import preserve_random_state
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

if TYPE_CHECKING:
    import pyarrow

    _Base = Trainer
else:
    _Base = object

logger = logging.get_logger(__name__)

RESIDENT_DATA = ("auto", "always", "never")
MOST_BYTES = 2**30
MOST_OF_FREE_MEMORY = 0.1
SAMPLED_ROWS = 64
LABELS = ("label", "label_ids", "labels")  # columns that the default collator renames to "labels"


class NotResidentError(ValueError):
    """The dataset cannot be kept on the device; the message says why."""


# What can be kept -----------------------------------------------------------------------------------------------------


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
        raise NotResidentError(f"its rows take {_megabytes(size)}, more than the {_megabytes(most_bytes)} allowed")
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


def free_memory(device: torch.device) -> int:
    """Free bytes on `device`, or in the host's memory for a CPU."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaN included."""
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) if a.ndim else False


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


# The loader -----------------------------------------------------------------------------------------------------------


class ResidentRows(TensorRows):
    """A dataset whose batches come from tensors on a device; everything else is the dataset's own."""

    def __init__(self, source: Any, columns: Mapping[str, Tensor]) -> None:
        super().__init__(columns)
        self.source, self.count = source, super().__len__()

    def __getattr__(self, name: str) -> Any:
        if name == "source":  # not set yet while the object is being copied
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        """Number of rows."""
        return self.count  # asked for several times an epoch, which may be one step

    def __getitem__(self, index: Any) -> Any:
        """The dataset's own row or rows."""
        return self.source[index]

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these indices as one batch on the device."""
        device = next(iter(self.columns.values())).device
        picked = _to_device(torch.tensor(indices, dtype=torch.long, device="cpu"), device)
        return {name: column[picked] for name, column in self.columns.items()}


class ResidentLoader(DataLoaderShard):
    """A prepared `DataLoader` that gives the batches of another one, taken from `ResidentRows`.

    It draws the same random numbers as the other loader, at the same moments. `accelerate.skip_first_batches` turns it into an
    ordinary loader with the same rows.

    Args:
        loader: the prepared loader to replace.
        columns: all rows of its dataset, on the device of its batches.
    """

    def __init__(self, loader: DataLoaderShard, columns: Mapping[str, Tensor]) -> None:
        super().__init__(
            ResidentRows(loader.dataset, columns),
            device=loader.device,
            rng_types=loader.rng_types,
            synchronized_generator=loader.synchronized_generator,
            _drop_last=loader._drop_last,
            _non_blocking=loader._non_blocking,
            batch_sampler=loader.batch_sampler,
            collate_fn=as_batch,
            generator=loader.generator,
        )
        self._is_accelerate_prepared = True

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # Looked up each time: a sampler may be replaced.
        in_one = type(self.batch_sampler) is BatchSampler and takes_order(self.batch_sampler.sampler)
        return self._gathered() if in_one else super().__iter__()

    def _gathered(self) -> Iterator[dict[str, Tensor]]:
        """As the base class, but the epoch's order is a tensor on the device, and each batch takes a part of it."""
        if self.rng_types is not None:
            synchronize_rng_states(self.rng_types, self.synchronized_generator)
        self.begin()
        self.set_epoch(self.iteration)
        iter(self.base_dataloader)  # draws the seed for workers, as the other loader would
        sampler, size = self.batch_sampler.sampler, self.batch_sampler.batch_size
        columns = list(self.dataset.columns.items())
        order = epoch_order(sampler)
        count = len(self.dataset)
        starts = range(0, count - size + 1 if self.batch_sampler.drop_last else count, size)
        parts = None if order is None else _to_device(order, columns[0][1].device).split(size)
        for number, start in enumerate(starts):
            # New tensors for each batch, so that a model that writes into its batch does not change the table.
            if parts is None:
                batch = {name: column[start : start + size].clone() for name, column in columns}
            else:
                part = parts[number]
                batch = {name: column.index_select(0, part) for name, column in columns}
            if number == len(starts) - 1:
                self.end_of_dataloader = True
            yield batch
        if starts:
            self.iteration += 1
        self.end()


def takes_order(sampler: Any) -> bool:
    """Whether `epoch_order` gives the sampler's order and draws the same random numbers."""
    kind = type(sampler)
    if kind is SequentialSampler:
        return True
    if kind not in known_samplers() or torch.get_default_device().type != "cpu":
        return False
    whole = not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    # The user's own generator may also be drawn from elsewhere in between.
    return whole and (kind is SeedableRandomSampler or sampler.generator is None)


def epoch_order(sampler: Any) -> Tensor | None:
    """The order of the rows in the next epoch, `(rows,)`, drawn as the sampler draws it; `None` if it is the table's order.

    >>> rows, state = range(5), torch.random.get_rng_state()
    >>> expected = list(RandomSampler(rows))
    >>> torch.random.set_rng_state(state)
    >>> epoch_order(RandomSampler(rows)).tolist() == expected
    True
    """
    if type(sampler) is SequentialSampler:
        return None
    generator = sampler.generator
    if type(sampler) is RandomSampler:
        seed = int(torch.empty((), dtype=torch.int64).random_().item())
        generator = torch.Generator().manual_seed(seed)
    else:
        if generator is None:
            generator = sampler.generator = torch.Generator()
        generator.manual_seed(sampler.epoch + sampler.initial_seed)
        sampler.set_epoch(sampler.epoch + 1)
    return torch.randperm(len(sampler.data_source), generator=generator)


@cache
def known_samplers() -> tuple[type, ...]:
    """The shuffling samplers for which `epoch_order` is right, tested on the installed versions."""
    return tuple(kind for kind in (RandomSampler, SeedableRandomSampler) if _order_is_as_of(kind))


def _order_is_as_of(kind: Any) -> bool:
    with preserve_random_state(seed=0):
        theirs, ours = kind(range(11)), kind(range(11))
        expected, state = [list(theirs), list(theirs)], torch.random.get_rng_state()
        torch.default_generator.manual_seed(0)
        orders = [epoch_order(ours), epoch_order(ours)]
        found = [order.tolist() for order in orders if order is not None]
        return found == expected and torch.equal(torch.random.get_rng_state(), state)


def _to_device(indices: Tensor, device: torch.device) -> Tensor:
    """From pinned memory, so that the host does not wait for the device."""
    if device.type == "cpu":
        return indices
    return (indices.pin_memory() if device.type == "cuda" else indices).to(device, non_blocking=True)


def check_loader(loader: Any) -> None:
    """Raise unless a `ResidentLoader` can give the batches of this loader, whatever its rows are.

    Raises:
        NotResidentError: the loader has a sampler, a dispatch or an option that it cannot reproduce.
    """
    if type(loader) is not DataLoaderShard:
        raise NotResidentError(
            f"the loader is a {type(loader).__name__}: accelerate did not prepare it, or it dispatches batches"
        )
    if loader.use_stateful_dataloader:
        raise NotResidentError("the loader is a stateful one")
    batches = loader.batch_sampler
    if type(batches) is BatchSamplerShard:
        batches = batches.batch_sampler
    if type(batches) is not BatchSampler:
        raise NotResidentError(f"batches are dealt by a {type(batches).__name__}")
    sampler = batches.sampler
    if loader.num_workers and loader.persistent_workers:
        raise NotResidentError("dataloader_persistent_workers draws other random numbers")
    if loader.num_workers and type(sampler) not in (SequentialSampler, RandomSampler, SeedableRandomSampler):
        raise NotResidentError(f"with workers, {type(sampler).__name__} would draw rows ahead of time")


# The trainer ----------------------------------------------------------------------------------------------------------


@dataclass
class _Held:
    """The tensors that were read from a dataset, or the reason why not."""

    key: tuple[Any, ...]
    columns: dict[str, Tensor] | NotResidentError


class ResidentMixin(_Base):
    """For any class derived from `Trainer`: keeps datasets that are small tables of numbers on the device.

    It does so for a `datasets.Dataset` (or `TensorRows`) whose rows all have the same shapes and no missing value, with the
    default collator, up to 1 GiB and a tenth of the free memory. Any sampler and any number of processes will do.
    `dataloader_num_workers` is then ignored. `args.resident_data`, if it exists, decides: `"auto"`; `"never"`; or `"always"`,
    with which a training set that cannot be kept is an error (evaluation sets are kept if possible).

    Training is the same to the last bit. Any method that makes samplers or loaders may be overridden.
    """

    def get_train_dataloader(self) -> DataLoader:
        """As the base class; the batches come from the device if the table fits there.

        Raises:
            ValueError: the table cannot be kept there, and `resident_data="always"`.
        """
        return self._resident("train", super().get_train_dataloader(), self._resident_choice() == "always")

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As the base class; the batches come from the device if the table fits there."""
        name = f"eval {eval_dataset}" if isinstance(eval_dataset, str) else "eval"
        return self._resident(name, super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As the base class; the batches come from the device if the table fits there."""
        return self._resident("test", super().get_test_dataloader(test_dataset))

    def _resident_choice(self) -> str:
        return str(getattr(self.args, "resident_data", RESIDENT_DATA[0]))

    def _resident(self, name: str, loader: DataLoader, required: bool = False) -> DataLoader:
        """The loader, or a `ResidentLoader` instead; `name` says what the dataset is used for."""
        if self._resident_choice() == "never":
            return loader
        try:
            check_loader(loader)
            columns = self._resident_columns(name, loader)
        except NotResidentError as reason:
            if required:
                raise ValueError(
                    f"resident_data='always': the training set cannot be kept on the device, because {reason}; "
                    "resident_data='auto' trains from where it is"
                ) from reason
            logger.debug("%s data are not kept on the device: %s", name, reason)
            return loader
        return ResidentLoader(loader, columns)

    def _resident_columns(self, name: str, loader: Any) -> dict[str, Tensor]:
        held: dict[str, _Held] = self.__dict__.setdefault("_held_columns", {})
        device = torch.device("cpu") if loader.device is None else loader.device
        # `Trainer` removes unused columns, which makes a new dataset each time. Its fingerprint stays.
        content = getattr(loader.dataset, "_fingerprint", loader.dataset)
        key = (content, type(loader.dataset), loader.collate_fn, device, torch.get_default_dtype())
        found = held.get(name)
        if found is None or found.key != key:
            held.pop(name, None)  # frees its memory for the next table
            most = int(min(MOST_BYTES, MOST_OF_FREE_MEMORY * free_memory(device)))
            try:
                columns = read_columns(loader.dataset, loader.collate_fn, most)
            except NotResidentError as reason:
                held[name] = _Held(key, reason)
                raise
            held[name] = _Held(key, {column: values.to(device) for column, values in columns.items()})
            size = sum(values.nbytes for values in columns.values())
            ignored = f"; dataloader_num_workers={loader.num_workers} is ignored" if loader.num_workers else ""
            # A dataset that changes with every evaluation is logged at level info only once.
            tell = logger.info if found is None else logger.debug
            tell("%s data: %d rows, %s, are kept on %s%s", name, len(loader.dataset), _megabytes(size), device, ignored)
        columns_or_reason = held[name].columns
        if isinstance(columns_or_reason, NotResidentError):
            raise columns_or_reason
        return columns_or_reason
