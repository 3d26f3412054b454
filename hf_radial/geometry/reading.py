"""`Reading`: one measured number with its place and its uncertainty, and the tidy table of many.

A table has one row per number: step and epoch, then the fields of `Reading`. It is a Parquet file that is replaced in one step,
so that no reader sees a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hf_radial.safe_files import replacing

TABLE_FILE = "geometry.parquet"
PREFIX = "geometry"


@dataclass(frozen=True)
class Reading:
    """One measured number.

    Attributes:
        metric: what was measured, in `snake_case`.
        value: the number.
        site: the module it belongs to; empty for the model as a whole.
        index: its place among several (a frequency, a neuron, a place in the spectrum); `None` for a single number.
        standard_error: of `value`, where it is an estimate.
        samples: number of vectors, rows or random probes behind it, where that limits the value.
    """

    metric: str
    value: float
    site: str = ""
    index: int | None = None
    standard_error: float | None = None
    samples: int | None = None

    @property
    def name(self) -> str:
        """Its name in logs: `geometry/<site>/<metric>`, or `geometry/<metric>`."""
        return "/".join(part for part in (PREFIX, self.site, self.metric) if part)


def logs_of(readings: Iterable[Reading]) -> dict[str, float]:
    """The readings without an index as `Trainer` logs them, and their standard errors as `<name>_se`."""
    logs: dict[str, float] = {}
    for reading in readings:
        if reading.index is None:
            logs[reading.name] = reading.value
            if reading.standard_error is not None:
                logs[f"{reading.name}_se"] = reading.standard_error
    return logs


class Table:
    """Readings over a run, by step.

    >>> table = Table()
    >>> table.add(100, 2.5, [Reading("radius_mean", 3.0, site="hidden.0", samples=512)])
    >>> len(table)
    1
    """

    def __init__(self, columns: dict[str, list[Any]] | None = None) -> None:
        self.columns: dict[str, list[Any]] = columns or {name: [] for name in _schema().names}

    def __len__(self) -> int:
        return len(self.columns["step"])

    def add(self, step: int, epoch: float | None, readings: Iterable[Reading]) -> None:
        """Append the readings of one measurement."""
        for reading in readings:
            row = {"step": step, "epoch": epoch, **vars(reading)}
            for name, column in self.columns.items():
                column.append(row[name])

    def series(self, metric: str, site: str = "") -> dict[int, float]:
        """Step -> value of one metric; values with an index and NaN are left out."""
        columns = (self.columns[name] for name in ("step", "metric", "site", "index", "value"))
        return {
            step: value
            for step, name, where, index, value in zip(*columns, strict=True)
            if (name, where, index) == (metric, site, None) and value is not None and value == value
        }

    def up_to(self, step: int) -> Table:
        """The rows up to and including `step`."""
        keep = [i for i, at in enumerate(self.columns["step"]) if at <= step]
        return Table({name: [column[i] for i in keep] for name, column in self.columns.items()})

    def write(self, path: str | Path) -> None:
        """Write Parquet to `path`, in one step."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with replacing(path) as new:
            pq.write_table(pa.table(self.columns, schema=_schema()), new)


def read_table(path: str | Path) -> Table:
    """Read the table at `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no table of readings.
    """
    return Table(read_arrow(path).to_pydict())


def read_arrow(path: str | Path) -> Any:
    """Read the table at `path` as a `pyarrow.Table`, for whoever needs no row one by one; raises as `read_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a table of readings: {error}") from error
    missing = [name for name in _schema().names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} is not a table of readings: it has no column {', '.join(missing)}")
    try:
        return table.select(_schema().names).cast(_schema())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path} is not a table of readings: {error}") from error


def _schema() -> Any:
    import pyarrow as pa

    types = {
        "metric": pa.dictionary(pa.int32(), pa.string()),
        "site": pa.dictionary(pa.int32(), pa.string()),
        "value": pa.float64(),
        "index": pa.int32(),
        "standard_error": pa.float64(),
        "samples": pa.int64(),
    }
    return pa.schema(
        [("step", pa.int64()), ("epoch", pa.float64()), *((field.name, types[field.name]) for field in fields(Reading))]
    )
