"""The cache of one configuration: only one process at a time prepares, reads or repairs it.

In here: `open_builder` and `load_rows`, the lock that they hold, and their errors. Not in here: how a task is chosen
(`load.py`).

The cache is the folder that `datasets` chooses, `CACHE_DIR/TASK/CONFIG/VERSION`. It holds one or more Arrow files for each
split, and the description `dataset_info.json`. Three rules keep processes apart:

- A process holds the lock `CACHE_DIR/TASK/CONFIG/load.lock` while it prepares, reads or repairs. If a process is killed, the
  operating system releases its lock.
- New files are written next to the folder. Each file is then moved into the folder in one step, the description last. Therefore
  a process without the lock (another program, or a process whose lock file was deleted) also finds complete files.
- A cache without a description is *missing*, and is prepared. A cache is *damaged* if its description cannot be read, or a file
  or rows are missing. It is rebuilt, with a warning.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import datasets
import pyarrow as pa

from hf_radial.safe_files import locked

if TYPE_CHECKING:
    from hf_radial.tasks.base import TaskBuilder

logger = logging.getLogger(__name__)
T = TypeVar("T")
DESCRIPTION = datasets.config.DATASET_INFO_FILENAME
LOCK = "load.lock"
# How often a cache is rebuilt that another program keeps deleting or damaging.
ATTEMPTS = 5


class DamagedError(Exception):
    """The rows could not be read. The description is deleted, so the next attempt rebuilds the cache."""


def cache_folder(
    builder: type[TaskBuilder], config: str, cache_dir: str | None, dataset_name: str | None = None
) -> Path | None:
    """The folder of a configuration; `None` if `cache_dir` is an address such as "s3://bucket", which has no locks."""
    root = os.fspath(cache_dir or datasets.config.HF_DATASETS_CACHE)
    if "://" in root:
        return None
    # `datasets` names a builder by the last part of its module, unless it is given a name, which it writes in snake case.
    name = datasets.naming.camelcase_to_snakecase(dataset_name) if dataset_name else builder.__module__.split(".")[-1]
    return Path(root).expanduser() / name / config / str(builder.VERSION)


def open_builder(make: Callable[[], TaskBuilder], folder: Path | None, cache_dir: str | None) -> TaskBuilder:
    """A builder with the description from the cache. If the cache is missing or damaged, the description is new.

    Args:
        make: makes the builder.
        folder: the configuration's folder, from `cache_folder`.
        cache_dir: for error messages.

    Raises:
        OSError: the cache cannot be written, or another program keeps deleting it.
    """
    return in_turn(lambda: _opened(make, folder), folder, cache_dir)


def load_rows(make: Callable[[], TaskBuilder], folder: Path | None, cache_dir: str | None) -> datasets.DatasetDict:
    """All splits, from the cache. Missing rows are prepared first. Arguments and errors as for `open_builder`."""

    def load() -> datasets.DatasetDict:
        builder = _opened(make, folder)
        if folder is None:
            builder.download_and_prepare()
            return read(builder)
        if builder.info.splits is None:
            prepare(builder, folder)
            builder = _opened(make, folder)
        try:
            return read(builder)
        except (pa.ArrowException, OSError, ValueError) as error:
            forget(folder, error)
            raise DamagedError(str(error)) from error

    return in_turn(load, folder, cache_dir)


def in_turn(action: Callable[[], T], folder: Path | None, cache_dir: str | None) -> T:
    """Call `action` under the folder's lock, and again if the cache was damaged or a file vanished."""
    if folder is None:
        return action()
    for _ in range(ATTEMPTS):
        try:
            with lock_of(folder):
                return action()
        except DamagedError as error:
            problem: Exception = error
        except OSError as error:
            if not _is_of_another_program(error):
                raise _cannot_write(error, cache_dir) from error
            problem = error
    if isinstance(problem, OSError) and not folder.parent.is_dir():
        raise _cannot_write(problem, cache_dir) from problem
    raise OSError(
        f"the cache {str(folder)!r} was deleted or damaged {ATTEMPTS} times while it was being built: {problem}. "
        "Stop the program that writes or deletes there, or give another cache_dir."
    ) from problem


def _is_of_another_program(error: OSError) -> bool:
    """Whether a file or folder was deleted, or made again, at the same moment."""
    return isinstance(error, FileNotFoundError | FileExistsError) or error.errno in (errno.ENOTEMPTY, errno.ESTALE)


def lock_of(folder: Path) -> AbstractContextManager[None]:
    """Holds the lock of a configuration's folder."""
    return locked(folder.parent / LOCK, f"prepares or reads {folder}")


def prepare(builder: TaskBuilder, folder: Path) -> None:
    """Build all rows next to the folder, then move the files into it, the description last."""
    prefix = f"{folder.name}.new-"
    for left in folder.parent.glob(f"{prefix}*"):  # left by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True) as place:
        made = Path(place) / folder.name
        try:
            builder.download_and_prepare(output_dir=str(made))
        except (datasets.exceptions.DatasetGenerationError, OSError) as error:
            # `datasets` wraps the error or replaces it by "Cannot find data file". The first error names the file.
            first = error.__cause__ or error.__context__
            if isinstance(first, OSError):
                raise first from None
            raise
        folder.mkdir(exist_ok=True)
        for file in sorted(made.iterdir(), key=lambda file: file.name == DESCRIPTION):
            os.replace(file, folder / file.name)


def read(builder: TaskBuilder) -> datasets.DatasetDict:
    """The splits of a prepared builder.

    Raises:
        FileNotFoundError: the description or an Arrow file is missing.
        ValueError: rows are missing. (A file that was cut between two batches opens without an error.)
    """
    if builder.info.splits is None:
        raise FileNotFoundError(f"{builder.cache_dir} has no {DESCRIPTION}")
    splits = builder.as_dataset()
    for split, rows in splits.items():
        expected = builder.info.splits[split].num_examples
        if len(rows) != expected:
            raise ValueError(f"the split {split!r} has {len(rows)} rows of {expected}")
    return splits


def forget(folder: Path, error: Exception) -> None:
    """Delete the description of a damaged cache, with a warning. Without a description the cache is missing."""
    description = folder / DESCRIPTION
    if description.exists():
        logger.warning("The cache %s is damaged (%s); it is rebuilt.", folder, error)
        description.unlink(missing_ok=True)


def _opened(make: Callable[[], TaskBuilder], folder: Path | None) -> TaskBuilder:
    if folder is None:
        return make()
    description = folder / DESCRIPTION
    was_there = description.is_file()
    try:
        builder = make()
        if was_there:
            _check_description(builder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a description may hold anything
        if not was_there and not description.is_file():
            raise
        forget(folder, error)
        builder = make()
    return builder


def _check_description(builder: TaskBuilder) -> None:
    """ValueError if the description is well-formed, but belongs to another task."""
    columns, splits = list(builder.info.features or ()), list(builder.info.splits or ())
    if columns != list(builder.features()) or not {"train", "test"} <= set(splits):
        raise ValueError(f"{DESCRIPTION} has the columns {columns} and the splits {splits}")


def _cannot_write(error: OSError, cache_dir: str | None) -> OSError:
    folder = cache_dir or os.fspath(datasets.config.HF_DATASETS_CACHE)
    # The class is kept (PermissionError, say). The arguments are not: OSError(1, 2, 3) builds its own text.
    return type(error)(
        f"cache_dir={folder!r} cannot be written: {error}. Give another cache_dir (or set HF_DATASETS_CACHE), or make room."
    )
