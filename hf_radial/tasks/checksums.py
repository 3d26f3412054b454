"""A checksum of a dataset's rows. It does not depend on chunks, files, formats, versions or the machine.

`checksums.json` has the committed checksums of every configuration on the shelf. `hf-radial tasks --verify` compares them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import datasets


def committed_checksums() -> dict[str, dict[str, str]]:
    """Committed checksums by `task/configuration` and split, from when the configuration was published."""
    return json.loads(files("hf_radial.tasks").joinpath("checksums.json").read_text(encoding="utf-8"))


def checksum(dataset: datasets.Dataset) -> str:
    """SHA-256 over the columns, in order: name, kind, and the values of all rows.

    Integers count as little-endian int64, strings as their lengths and UTF-8 bytes, lists as their lengths and values, and
    everything else as text. So an Arrow cache, a Parquet file and a stream of the same rows have the same checksum.

    Example:
        >>> import datasets
        >>> checksum(datasets.Dataset.from_dict({"a": [1, 2], "b": ["x", "yz"]}))[:16]
        '2aa37527a57d69ee'
    """
    columns = dataset.column_names
    return checksum_of_tables(dataset.with_format("arrow").iter(100_000), columns)


def checksum_of_tables(tables: Iterable[pa.Table], columns: list[str]) -> str:
    """As `checksum`, for tables that arrive one after the other. Only one table is in memory at a time."""
    hashes: dict[str, dict[str, Any]] = {name: {} for name in columns}
    for table in tables:
        for name in columns:
            for chunk in table[name].chunks:
                _update(hashes[name], "", chunk)
    whole = hashlib.sha256()
    for name, parts in hashes.items():
        for kind, part in sorted(parts.items()):
            whole.update(f"{name}\0{kind}\0{part.hexdigest()}\n".encode())
    return whole.hexdigest()


def _update(parts: dict[str, Any], path: str, values: pa.Array) -> None:
    """Add `values` to one running hash per kind of buffer. The borders between chunks therefore do not matter."""
    kind = values.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _feed(parts, f"{path}lengths", pc.list_value_length(values).cast(pa.int64()))
        _update(parts, f"{path}items.", values.flatten())
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        _feed(parts, f"{path}integers", values.cast(pa.int64()))
    else:
        text = values.cast(pa.large_string()).cast(pa.large_binary())
        _feed(parts, f"{path}lengths", pc.binary_length(text).cast(pa.int64()))
        offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
        data = text.buffers()[2]
        hashed = parts.setdefault(f"{path}text", hashlib.sha256())
        if data is not None and len(text):
            hashed.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _feed(parts: dict[str, Any], name: str, values: pa.Array) -> None:
    if values.null_count:
        raise ValueError("a task's rows must not hold nulls, but these do.")
    parts.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(values.to_numpy().astype("<i8")).tobytes())
