"""A run that goes on: its folder read again and again, while a `Trainer` writes it.

`FollowedRun` looks at three kinds of files: the newest `trainer_state.json` (at every checkpoint), `geometry.parquet` (after
measurements), and TensorBoard's events (`report_to="tensorboard"`, at every log), which are read on from where they ended. A
file that has not changed is not read. A file that cannot be read, because it is half written or the run was killed, leaves what
was known and is read again at its next change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_radial.geometry.reading import PREFIX, TABLE_FILE, read_arrow
from hf_radial.runs.files import Floats, Run, is_foreign, measured_in, measured_in_log, read_log, read_record, state_file
from hf_radial.runs.record import RUN_FILE

EVENTS = "runs/**/events.out.tfevents.*"  # where transformers' TensorBoardCallback writes
PREFIXES = {"eval/": "eval_", "test/": "test_", "train/": ""}  # what it makes of names


class FollowedRun:
    """A run that may still be written.

    Args:
        folder: its output directory. It may be empty as yet.
        name: what to call it.

    Attributes:
        run: what is known of it.
        trouble: file -> why it could not be read when it was last tried.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it is a file.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        self.folder = Path(folder)
        if not self.folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; name the output_dir of a run")
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is a file; name the folder it lies in, the output_dir of a run")
        self._root = self.folder.resolve()
        self.run = Run(self.folder, name, [])
        self.trouble: dict[str, str] = {}
        self._seen: dict[Path, tuple[int, int]] = {}
        self._state: list[dict[str, Any]] = []
        self._table: dict[str, dict[str, Floats]] = {}
        self._record: dict[str, Any] = {}
        self._events: dict[Path, Any] = {}  # loaders, which remember where they are
        self._logged: dict[Path, list[dict[str, Any]]] = {}

    def poll(self) -> bool:
        """Read what has changed. Returns whether anything was read."""
        changed = False
        state = state_file(self.folder)
        for path, read in (
            (state, self._read_state),
            (self.folder / TABLE_FILE, self._read_table),
            (self.folder / RUN_FILE, self._read_record),
        ):
            if path is not None and self._has_changed(path):
                changed |= self._try(path, read)
        for path in sorted(self.folder.glob(EVENTS)):
            if self._has_changed(path):
                changed |= self._try(path, self._read_events)
        if changed:
            self._join()
        return changed

    def _has_changed(self, path: Path) -> bool:
        try:
            real = path.resolve()
            if not real.is_relative_to(self._root) or not real.is_file():  # a link may lead out of the folder
                return False
            stat = real.stat()
        except OSError:
            return False
        now = (stat.st_mtime_ns, stat.st_size)
        if self._seen.get(path) == now:
            return False
        self._seen[path] = now
        return True

    def _try(self, path: Path, read: Any) -> bool:
        name = str(path.relative_to(self.folder))
        try:
            read(path)
        except Exception as error:  # whatever a half-written file does to the libraries that read it
            self.trouble[name] = f"{type(error).__name__}: {error}"
            return True
        self.trouble.pop(name, None)
        return True

    def _read_state(self, path: Path) -> None:
        self._state = read_log(path)

    def _read_table(self, path: Path) -> None:
        self._table = measured_in(read_arrow(path))

    def _read_record(self, path: Path) -> None:
        self._record = read_record(path)

    def _read_events(self, path: Path) -> None:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader  # takes a second

        if path not in self._events:
            self._events[path] = LegacyEventFileLoader(str(path))
        log = self._logged.setdefault(path, [])
        for step, name, value in _scalars(self._events[path]):
            if not log or log[-1]["step"] != step or name in log[-1]:
                log.append({"step": step})
            log[-1][name] = value

    def _join(self) -> None:
        """The state's log, and what TensorBoard knows after it: the state has all digits, TensorBoard is earlier."""
        last = max((logs["step"] for logs in self._state), default=-1)
        later = [logs for path in sorted(self._logged) for logs in self._logged[path] if logs["step"] > last]
        log = [*self._state, *later]
        foreign = is_foreign(self._record, log)
        self.run.log = log
        self.run.foreign_record = foreign
        self.run.record = {} if foreign else self._record
        self.run.measured = measured_in_log(log) | _continued(self._table, log)


def _continued(table: dict[str, dict[str, Floats]], log: Sequence[dict[str, Any]]) -> dict[str, dict[str, Floats]]:
    """The table, and what was measured after its last row: it is written more seldom than the log.

    The radii that a `RadialTrainer` logs are no measurements: they are means over training batches.
    """
    start = f"{PREFIX}/"
    logged = measured_in_log(
        [{name: value for name, value in logs.items() if name == "step" or name.startswith(start)} for logs in log]
    )
    joined = {metric: dict(sites) for metric, sites in table.items()}
    for metric, sites in joined.items():
        for site, rows in sites.items():
            later = logged.get(metric, {}).get(site, rows[:0])
            later = later[later[:, 0] > rows[:, 0].max()]
            if len(later):
                sites[site] = np.concatenate([rows, later])
    return joined


def _scalars(loader: Any) -> Iterator[tuple[int, str, float]]:
    """Steps, names as in a `log_history`, and values of the events that are new."""
    for event in loader.Load():
        for value in event.summary.value:
            prefix = next((prefix for prefix in PREFIXES if value.tag.startswith(prefix)), None)
            if prefix is not None and value.HasField("simple_value"):
                yield event.step, PREFIXES[prefix] + value.tag.removeprefix(prefix), value.simple_value
