"""Files and folders that several processes read and write at the same time: replaced in one step, locked, or taken.

    write_text(folder / "run.json", text)                 # readers see the old file or the new one, never a part
    with replacing(folder / "geometry.parquet") as new:   # the same, for whoever writes to a path
        write_table(new)
    with locked(folder / ".lock", "publishes to the folder"):   # one process at a time
        ...
    folder = new_folder("runs/addition_cpu")              # made by this process, so nobody else has chosen it

A process that is killed leaves no part of a file under its name, and no lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

logger = logging.getLogger(__name__)
# Seconds to wait for a lock before a warning says so. The wait itself has no end.
PATIENCE = 30.0
POLL_SECONDS = 0.01


@contextlib.contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new path beside `file` to write to, and move what was written there to `file` in one step.

    Args:
        file: what to write. Its folder is made if it does not exist. A link stays a link, and a device such as `/dev/stdout` is
            written to directly.

    Yields:
        A path of its own for each caller, in the same folder and hidden. If the block ends with an error, the path is deleted
        and `file` stays as it was.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with replacing(file) as new:
        ...     _ = new.write_text("1 2 3")
        >>> file.read_text(), [path.name for path in file.parent.iterdir()]
        ('1 2 3', ['numbers.txt'])
    """
    file = Path(os.path.realpath(file))
    if file.exists() and not file.is_file():
        yield file
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{uuid4().hex[:12]}")
    try:
        yield new
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def write_text(file: str | os.PathLike[str], text: str) -> None:
    """Write `file` in one step, as UTF-8."""
    write_bytes(file, text.encode())


def write_bytes(file: str | os.PathLike[str], content: bytes) -> None:
    """Write `file` in one step."""
    with replacing(file) as new:
        new.write_bytes(content)


@contextlib.contextmanager
def locked(file: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Hold a lock while the block runs. Other processes and threads wait; the thread that holds the lock may take it again.

    Args:
        file: the lock's file. It stays there, and so does its folder, which is made if it does not exist.
        doing: what the holder does, for the warning that another process still waits: "prepares the rows in FOLDER".

    Raises:
        OSError: the file cannot be written, or the file system has no locks.
    """
    from filelock import FileLock, Timeout  # imported here, since it takes 30 ms

    Path(file).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, is_singleton=True)
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=POLL_SECONDS)
    except Timeout:
        logger.warning("Waiting for another process that %s. It holds the lock %s.", doing, file)
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_if_free(file: str | os.PathLike[str]) -> Iterator[bool]:
    """As `locked`, but without waiting: whether this thread holds the lock while the block runs.

    Raises:
        OSError: the file cannot be written, or the file system has no locks.
    """
    from filelock import FileLock, Timeout

    Path(file).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def new_folder(default: str | os.PathLike[str]) -> Path:
    """Make a folder that nobody else has: `default`, or `default-2`, `default-3` and on if that exists.

    A folder belongs to the process that made it, so that two runs never choose the same one.

    Raises:
        OSError: the folder cannot be made.
    """
    Path(default).parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = Path(default if number == 1 else f"{default}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
