"""The `DataLoader` of a device-resident dataset: batches are gathered from tensors (`ResidentLoader`).

Not in here: the order of the rows. The loader that the trainer made decides which row comes when, in which process, and what is
drawn from which random generator. Training is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, SeedableRandomSampler
from accelerate.utils import synchronize_rng_states
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from hf_radial.sites.preserve import preserve_random_state
from hf_radial.tasks.tensor_rows import TensorRows, as_batch
from hf_radial.training.fast.columns import NotResidentError


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
