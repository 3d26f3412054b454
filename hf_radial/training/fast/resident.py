"""Device-resident datasets: a table that fits is kept on the device, and batches are gathered there instead of collated row by
row.

In here: `ResidentMixin`, which lets a `Trainer` use them. `columns.py` reads a dataset into tensors; `resident_loader.py` takes
the batches from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.utils import logging

from hf_radial.training.fast.columns import NotResidentError, megabytes, read_columns
from hf_radial.training.fast.resident_loader import ResidentLoader, check_loader

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object

logger = logging.get_logger(__name__)

RESIDENT_DATA = ("auto", "always", "never")
MOST_BYTES = 2**30
MOST_OF_FREE_MEMORY = 0.1


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
            tell("%s data: %d rows, %s, are kept on %s%s", name, len(loader.dataset), megabytes(size), device, ignored)
        columns_or_reason = held[name].columns
        if isinstance(columns_or_reason, NotResidentError):
            raise columns_or_reason
        return columns_or_reason


def free_memory(device: torch.device) -> int:
    """Free bytes on `device`, or in the host's memory for a CPU."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)
