"""Runs, read back from disk: log, record and measured geometry; and which runs belong to one group.

A folder is a run if it, or a checkpoint in it, has a `trainer_state.json`, which any `Trainer` writes. `run.json` and
`geometry.parquet` may be missing. Nothing here draws. The only numbers that are computed are medians over runs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_radial.geometry.reading import PREFIX, TABLE_FILE, Table, read_arrow, read_table
from hf_radial.runs.onset import curve
from hf_radial.runs.record import RUN_FILE, STATE_FILE
from hf_radial.runs.resume import checkpoints, is_complete
from hf_radial.runs.text_files import read_object
from hf_radial.safe_files import write_text

TIMINGS = ("_runtime", "_samples_per_second", "_steps_per_second")
KEPT_OF_STATE = ("epoch", "global_step", "max_steps", "num_train_epochs", "eval_steps", "logging_steps")
OF_NEURONS = ("neuron_frequency", "neuron_selectivity")
Floats = NDArray[np.float64]

# Two runs of one group may differ in seeds and in these: where they are kept and how they are watched.
UNIMPORTANT_ARGS = re.compile(
    r"output_dir|logging_|log_|report_to|run_name|project|trackio|disable_tqdm|save_|hub_|push_to_hub|eval_|per_device_eval"
    r"|load_best|metric_for_best|greater_is_better|resume_from|restore_callback|dataloader_|do_|include_num|skip_memory"
    r"|enable_jit_checkpoint|remove_unused|local_rank|ddp_timeout|batch_eval|prediction_loss_only|overwrite_output"
)
UNIMPORTANT_FACTS = {"title", "usage", "limits", "license", "results", "tuned_on", "arms", "solved_at", "solved_evaluations"}
# They follow from other settings, so a label names them last.
DERIVED = {"radial.variant", "facts.arm", "facts.preset"}
FIRST_NAMED = (
    "radial.radial_lambda",
    "training_args.weight_decay",
    "training_args.learning_rate",
    "model.class",
    "facts.task",
    "facts.dataset",
)
SHORT = {"radial_lambda": "lambda", "weight_decay": "wd", "learning_rate": "lr", "class": "model"}


class Series(NamedTuple):
    """One number over a run: its steps, values and standard errors (NaN where there is none)."""

    steps: Floats
    values: Floats
    errors: Floats


EMPTY = Series(np.empty(0), np.empty(0), np.empty(0))


@dataclass
class Run:
    """One run.

    Attributes:
        folder: where it lies.
        name: the shortest end of its path that tells it from the other runs of the report.
        log: the `log_history` of its state.
        record: its `run.json`; empty if there is none.
        measured: metric -> site -> the rows of the table, as columns step, index (-1 for none), value, standard_error.
        foreign_record: whether its `run.json` belongs to an earlier run in the same folder. It is not read then.
    """

    folder: Path
    name: str
    log: list[dict[str, Any]]
    record: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, dict[str, Floats]] = field(default_factory=dict)
    foreign_record: bool = False

    def sites(self, metric: str) -> list[str]:
        """Sites that have the metric, in the order of the run's record, or else of the table or log."""
        found = [site for site in self.measured.get(metric, {}) if site]
        first = [site["name"] for site in self.record.get("radial", {}).get("sites", [])]
        return [site for site in first if site in found] + [site for site in found if site not in first]

    def series(self, metric: str, site: str = "") -> Series:
        """The values of a metric without an index, by step; empty if it was not measured."""
        rows = self.measured.get(metric, {}).get(site)
        if rows is None:
            return EMPTY
        rows = _by_step(rows[rows[:, 1] < 0])
        return Series(rows[:, 0], rows[:, 2], rows[:, 3])

    def indexed(self, metric: str, site: str = "") -> tuple[Floats, Floats, Floats]:
        """Steps (s,), indices (i,) and values (s, i) of a metric with an index; NaN where one was not measured."""
        rows = self.measured.get(metric, {}).get(site)
        if rows is None or not (rows[:, 1] >= 0).any():
            return np.empty(0), np.empty(0), np.empty((0, 0))
        rows = rows[rows[:, 1] >= 0]
        steps, row = np.unique(rows[:, 0], return_inverse=True)
        indices, column = np.unique(rows[:, 1], return_inverse=True)
        values = np.full((len(steps), len(indices)), np.nan)
        values[row, column] = rows[:, 2]  # of two measurements at one step, the later one counts
        return steps, indices, values

    def logged(self, metric: str) -> Series:
        """The values of a metric of the log, by step."""
        steps, values = curve(self.log, metric)
        return Series(np.array(steps, float), np.array(values, float), np.full(len(steps), np.nan))


@dataclass
class Group:
    """Runs that differ only in their seeds; `label` says how they differ from the other groups."""

    label: str
    runs: list[Run]


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in the given folders.

    Raises:
        FileNotFoundError: a folder does not exist, or is no run; the message names it and what is missing.
        ValueError: no folder is given, one is given twice, or a file in one cannot be read.
    """
    paths = [Path(folder) for folder in folders]
    names = names_of(resolved_once(folders))
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def resolved_once(folders: Sequence[str | Path]) -> list[Path]:
    """The folders' full paths.

    Raises:
        ValueError: no folder is given, or one is given twice.
    """
    if not folders:
        raise ValueError("no run is given; name at least one folder with a trainer_state.json")
    paths = [Path(folder) for folder in folders]
    resolved = [path.resolve() for path in paths]
    for path, full in zip(paths, resolved, strict=True):
        if resolved.count(full) > 1:
            raise ValueError(f"{path} is given twice; name each run once")
    return resolved


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """The run in one folder; raises as `read_runs`."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; name the output_dir of a run")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name the folder it lies in, the output_dir of a run")
    table = folder / TABLE_FILE
    state = state_file(folder)
    if state is None and not table.is_file():
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and state_file(path) is not None)
        raise FileNotFoundError(
            f"{folder} is no run: it has neither {STATE_FILE}, nor a checkpoint-N with one, nor {TABLE_FILE}. "
            + (
                f"Runs lie in it, name these: {', '.join(map(str, inside[:6]))}{', ...' if inside[6:] else ''}"
                if inside
                else "A Trainer writes its state with every checkpoint, and at trainer.save_state()"
            )
        )
    log = [] if state is None else read_log(state)
    record = read_record(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    foreign = is_foreign(record, log)
    measured = measured_in_log(log)
    if table.is_file():
        measured |= measured_in(read_arrow(table))
    return Run(folder, name or folder.resolve().name, log, {} if foreign else record, measured, foreign)


def read_record(path: Path) -> dict[str, Any]:
    """A run's record.

    Raises:
        ValueError: the file holds no object, or its sites are no list of sites.
    """
    record = read_object(path)
    # A record without one of these was not written by us. The report shows what there is.
    record = {key: value for key, value in record.items() if key not in _MAPPINGS or isinstance(value, dict)}
    sites = record.get("radial", {}).get("sites")
    if sites is not None and not (isinstance(sites, list) and all(isinstance(site, dict) and "name" in site for site in sites)):
        raise ValueError(f"{path}: radial.sites is {str(sites)[:100]!r}, not a list of sites with names")
    return record


def is_foreign(record: dict[str, Any], log: Sequence[dict[str, Any]]) -> bool:
    """Whether the record has sites, but the training log has no penalty and no radii: a plain Trainer ran here last."""
    trained = [logs for logs in log if "loss" in logs and "learning_rate" in logs]
    return bool(trained and record.get("radial", {}).get("sites")) and not any("radial_lambda" in logs for logs in trained)


_MAPPINGS = ("radial", "facts", "model", "training_args", "environment")


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups. Runs that differ only in seeds are one group; a run without `run.json` is its own group."""
    groups: list[tuple[dict[str, str] | None, list[Run]]] = []
    for run in runs:
        settings = _settings(run) if run.record else None
        same = next((members for other, members in groups if settings is not None and other == settings), None)
        if same is None:
            groups.append((settings, [run]))
        else:
            same.append(run)
    labels = _labels([settings for settings, _ in groups], [members for _, members in groups])
    return [Group(label, members) for label, (_, members) in zip(labels, groups, strict=True)]


def seed(run: Run) -> Any:
    """The seed of a run's record, or `None`."""
    return run.record.get("training_args", {}).get("seed")


def band(series: Sequence[Series]) -> tuple[Floats, Floats, Floats, Floats]:
    """Steps, median, minimum and maximum over runs. Between its own steps, a run is interpolated linearly.

    Steps that not all runs reach are left out: there, the median would depend on which run was longest.

    >>> one, two = (Series(np.array([0.0, 10.0]), np.array(values), np.empty(2)) for values in ([0.0, 1.0], [1.0, 3.0]))
    >>> [numbers.tolist() for numbers in band([one, two])]
    [[0.0, 10.0], [0.5, 2.0], [0.0, 1.0], [1.0, 3.0]]
    """
    series = [one for one in series if len(one.steps)]
    if not series:
        return (np.empty(0),) * 4
    steps = np.unique(np.concatenate([one.steps for one in series]))
    start, end = max(one.steps[0] for one in series), min(one.steps[-1] for one in series)
    steps = steps[(steps >= start) & (steps <= end)]
    if not len(steps):
        return (np.empty(0),) * 4
    values = np.stack([np.interp(steps, one.steps, one.values) for one in series])
    return steps, np.median(values, 0), values.min(0), values.max(0)


def short_names(sites: Sequence[str]) -> dict[str, str]:
    """Site -> its name without the beginning and the end that all names share.

    >>> short_names(["transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"])
    {'transformer.h.0.attn.c_proj': 'h.0.attn', 'transformer.h.0.mlp.c_proj': 'h.0.mlp',
     'transformer.h.1.mlp.c_proj': 'h.1.mlp'}
    """
    names = {site: site for site in sites}
    modules = [site for site in sites if "." in site]  # `embedding` and `logits` are none
    parts = [site.split(".") for site in modules]
    if len(parts) < 2:
        return names
    shortest = min(map(len, parts))
    begin = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), shortest - 1)
    end = next((i for i in range(shortest - begin) if len({p[-1 - i] for p in parts}) > 1), shortest - begin - 1)
    if any(p[begin].isdigit() for p in parts):  # a number alone does not say what it counts
        begin = max(begin - 1, 0)
    return names | {site: ".".join(p[begin : len(p) - end]) for site, p in zip(modules, parts, strict=True)}


def keep_run(run: Path, kept: Path) -> None:
    """Copy what is small of a run: its record, its log and its geometry table.

    The log is copied without timings and without the geometry that the table has, too. Numbers of single neurons are copied for
    the last measurement only, which is the one that a report draws.
    """
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / RUN_FILE, kept / RUN_FILE)
    state = json.loads((run / STATE_FILE).read_text())
    log = [
        {name: value for name, value in logs.items() if not name.endswith(TIMINGS) and not name.startswith(f"{PREFIX}/")}
        for logs in state["log_history"]
        if f"{PREFIX}/seconds" not in logs
    ]
    small = {name: state[name] for name in KEPT_OF_STATE}
    lines = ",\n  ".join(json.dumps(logs) for logs in log)  # one line for each entry: easy to compare
    write_text(kept / STATE_FILE, json.dumps(small)[:-1] + f', "log_history": [\n  {lines}\n]}}\n')
    if not (run / TABLE_FILE).is_file():
        (kept / TABLE_FILE).unlink(missing_ok=True)
        return
    columns = read_table(run / TABLE_FILE).columns
    last = max(columns["step"], default=0)
    rows = [
        i
        for i, (step, metric) in enumerate(zip(columns["step"], columns["metric"], strict=True))
        if step == last or metric not in OF_NEURONS
    ]
    Table({name: [column[i] for i in rows] for name, column in columns.items()}).write(kept / TABLE_FILE)


def state_file(folder: Path) -> Path | None:
    """The state at the end of the run, or else of its newest complete checkpoint, or else of an incomplete one."""
    if (folder / STATE_FILE).is_file():
        return folder / STATE_FILE
    states = [path for path in checkpoints(folder) if (path / STATE_FILE).is_file()]
    complete = [path for path in states if is_complete(path)]
    return (complete or states)[-1] / STATE_FILE if states else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The `log_history` of a Trainer's state; a `ValueError` if the file is none."""
    log = read_object(path).get("log_history")
    if not isinstance(log, list) or not all(isinstance(logs, dict) for logs in log):
        raise ValueError(f"{path} has no log_history, so it is not the state of a Trainer")
    for logs in log:
        if not isinstance(logs.get("step"), int):
            raise ValueError(f"{path}: an entry of log_history has no step, so it is not the state of a Trainer: {logs}")
    return log


def measured_in(table: Any) -> dict[str, dict[str, Floats]]:
    """Metric -> site -> rows, as in `Run.measured`, from (a slice of) the `pyarrow.Table` of `read_arrow`."""
    if not table.num_rows:
        return {}
    table = table.combine_chunks()
    names, codes = [], []
    for name in ("metric", "site"):
        column = table[name].combine_chunks()
        names.append(column.dictionary.to_pylist())
        codes.append(column.indices.to_numpy(zero_copy_only=False))
    rows = np.empty((table.num_rows, 4))
    for place, (name, absent) in enumerate({"step": 0, "index": -1, "value": np.nan, "standard_error": np.nan}.items()):
        rows[:, place] = table[name].fill_null(absent).to_numpy()
    place = codes[0].astype(np.int64) * len(names[1]) + codes[1]
    order = np.argsort(place, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(place[order])) + 1)
    measured: dict[str, dict[str, Floats]] = {}
    for part in sorted(parts, key=lambda part: part[0]):  # in the order of the table
        metric, site = divmod(int(place[part[0]]), len(names[1]))
        measured.setdefault(names[0][metric], {})[names[1][site]] = rows[part]
    return measured


def measured_in_log(log: Sequence[dict[str, Any]]) -> dict[str, dict[str, Floats]]:
    """The same, from the log: what `logs_of` put there, and the radii that a `RadialTrainer` logs."""
    names = {name for logs in log for name in logs if "/" in name}
    places: dict[str, tuple[str, str]] = {}
    for name in names:
        parts = name.split("/")
        if parts[0] == PREFIX and len(parts) in (2, 3):
            places[name] = (parts[-1], parts[1] if len(parts) == 3 else "")
        elif len(parts) == 2 and parts[0] in ("radius", "radius_target"):
            places.setdefault(name, ("radius_mean" if parts[0] == "radius" else "radius_target", parts[1]))
    measured: dict[str, dict[str, Floats]] = {}
    # The measured radii come last: they replace the means over training batches.
    for name in sorted(places, key=lambda name: (name.startswith(f"{PREFIX}/"), _natural(name))):
        if name.endswith("_se") and name.removesuffix("_se") in places:
            continue
        metric, site = places[name]
        steps, values = curve(log, name)
        errors = dict(zip(*curve(log, f"{name}_se"), strict=True))
        rows = [(step, -1, value, errors.get(step, np.nan)) for step, value in zip(steps, values, strict=True)]
        measured.setdefault(metric, {})[site] = np.array(rows, float)
    return measured


def _by_step(rows: Floats) -> Floats:
    """Sorted by step. Of several rows of one step the last is kept: a resumed run measures a step again."""
    steps, last = np.unique(rows[::-1, 0], return_index=True)
    return rows[::-1][last] if len(steps) else rows


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of resolved paths that tell them from each other."""
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):  # ends, because no two paths are equal
        length += 1
    return ["/".join(path.parts[-length:]) for path in paths]


def _settings(run: Run) -> dict[str, str]:
    """The settings of the run as texts, without seeds and without settings that do not change the training."""
    kept: dict[str, Any] = {}
    for part in ("radial", "facts", "model", "training_args"):
        for key, value in run.record.get(part, {}).items():
            if key in ("seed", "data_seed") or key.endswith("_seed"):
                continue
            if part == "training_args" and UNIMPORTANT_ARGS.match(key):
                continue
            if part == "facts" and key in UNIMPORTANT_FACTS:
                continue
            if key == "sites":  # only names: targets from initial radii depend on the seed
                value = [site.get("name") for site in value]
            kept[f"{part}.{key}"] = value
    kept["processes"] = run.record.get("processes")
    return {key: json.dumps(value, sort_keys=True, default=str) for key, value in kept.items()}


def _labels(settings: Sequence[dict[str, str] | None], members: Sequence[Sequence[Run]]) -> list[str]:
    names = [" + ".join(run.name for run in runs) if len(runs) < 3 else f"{runs[0].name} and alike" for runs in members]
    known = [one for one in settings if one is not None]
    if len(members) == 1 or len(known) < len(settings):
        return names
    keys = sorted({key for one in known for key in one if len({other.get(key) for other in known}) > 1})
    keys = [key for key in FIRST_NAMED if key in keys] + [key for key in keys if key not in FIRST_NAMED and key not in DERIVED]
    # Lists and dictionaries make no label. A legend has room for three settings.
    scalars = [key for key in keys if not any(one.get(key, "").startswith(("[", "{")) for one in known)]
    for count in range(1, min(3, len(scalars)) + 1):
        labels = [", ".join(_setting(key, one.get(key)) for key in scalars[:count]) for one in known]
        if len(set(labels)) == len(labels) and not any(key in FIRST_NAMED for key in scalars[count:]):
            return labels
    return names


def _setting(key: str, value: str | None) -> str:
    name = key.rpartition(".")[2]
    found = None if value is None else json.loads(value)
    return f"{SHORT.get(name, name)} {'-' if found is None else f'{found:g}' if isinstance(found, float) else found}"
