"""All tasks by name, and how one is loaded.

    load_task("modular", operation="a+b", p=97, train_fraction=0.5, seed=0)
    load_task("modular", "add_p97_f0.5_s0")                                   # the same, by its name

In here: `TASKS`, `task_builder` and `load_task`. Not in here: how the cache is kept complete (`cache.py`), and the Hub
(`hf_radial.hub`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import datasets

from hf_radial.plugins import Registry
from hf_radial.tasks.cache import cache_folder, load_rows, open_builder
from hf_radial.tasks.checks import flag, one_of, shown

if TYPE_CHECKING:
    from hf_radial.tasks.base import TaskBuilder

Builder = TypeVar("Builder", bound=type)


def _wrong(found: Any, name: str) -> str:
    from hf_radial.tasks.base import TaskBuilder

    good = isinstance(found, type) and issubclass(found, TaskBuilder)
    return "" if good else "a task is a class that inherits from hf_radial.tasks.base.TaskBuilder"


TASKS = Registry(
    "task",
    {
        "modular": "hf_radial.tasks.modular:ModularArithmetic",
        "groups": "hf_radial.tasks.groups:GroupMultiplication",
        "polynomial": "hf_radial.tasks.polynomial:PolynomialEvaluation",
        "digits": "hf_radial.tasks.digits:DigitArithmetic",
        "sparse_parity": "hf_radial.tasks.parity:SparseParity",
        "sequences": "hf_radial.tasks.sequences:Sequences",
        "dyck": "hf_radial.tasks.dyck:DyckDepth",
        "text": "hf_radial.tasks.text:Text",
        "image_sequence": "hf_radial.tasks.image_sequence:ImageSequence",
        "modular_sequence": "hf_radial.tasks.modular_sequence:ModularSequence",
        "text_sequence": "hf_radial.tasks.text_sequence:TextSequence",
    },
    _wrong,
)


def register_task(builder: Builder, name: str) -> Builder:
    """Let this process load a task by `name`.

    A package declares it instead, under `[project.entry-points."hf_radial.tasks"]`: so other processes find it, too.

    Args:
        builder: a class that inherits from `hf_radial.tasks.base.TaskBuilder`, or from its `TableBuilder`.
        name: what `load_task` takes.

    Raises:
        TypeError: it is not such a class.
        PluginError: the name is taken; the message says by whom.
    """
    TASKS.register(builder, name)
    return builder


def builder_class(task: str) -> type[TaskBuilder]:
    """The builder of a task.

    Raises:
        ValueError: no task has this name; the message lists the most similar names.
        PluginError: the task's package cannot be imported, or two packages have the name.
    """
    return TASKS[task if task in TASKS else one_of("task", task, TASKS)]


def task_config(task: str, config: str | None = None, **fields: Any) -> Any:
    """The configuration of a name, or of fields. Nothing is written. ValueError as for `task_builder`."""
    config_class = builder_class(task).BUILDER_CONFIG_CLASS
    inherited = datasets.BuilderConfig.__dataclass_fields__
    known = {field.name for field in dataclasses.fields(config_class) if field.name not in inherited}
    for field in fields:  # the builder has more arguments; only fields of the configuration are allowed here
        one_of(f"task {task!r}: field", field, sorted(known))
    if config is None:
        return config_class(**fields)
    made = config_class(name=config, **fields)
    for field, value in fields.items():  # only here can a given default be told from a default that is left out
        if dataclasses.replace(made, **{"name": "default", field: value}).name != made.name:
            raise ValueError(f"{field}={shown(value)} contradicts the name {config!r}; give the name or the fields.")
    return made


def task_builder(task: str, config: str | None = None, *, cache_dir: str | None = None, **fields: Any) -> TaskBuilder:
    """The `datasets` builder of one configuration. `load_task` loads its rows directly.

    Args:
        task: a name out of `TASKS`.
        config: the configuration's name, such as "add_p97_f0.5_s0"; or leave it out and give its fields.
        cache_dir: root of the cache; `datasets`' own by default. The folder inside is named by the configuration.
        **fields: fields of the configuration (`builder_class(task).BUILDER_CONFIG_CLASS`).

    Raises:
        ValueError: the task is unknown, or the configuration refuses a field or the name. Nothing has been written then.
        OSError: `cache_dir` cannot be written.
    """
    return open_builder(*_place(task, config, cache_dir, fields), cache_dir)


def _place(
    task: str, config: str | None, cache_dir: str | None, fields: dict[str, Any]
) -> tuple[Callable[[], TaskBuilder], Path | None]:
    """The function that makes a configuration's builder, and the configuration's folder in the cache. Nothing is written."""
    check_cache_dir(cache_dir)
    builder, more = builder_class(task), {}
    if task not in TASKS.ours:  # `datasets` names a cache by the builder's file, and that name may be one of ours
        more["dataset_name"] = f"{builder.__module__.partition('.')[0].strip('_')}_{task}"
    name = task_config(task, config, **fields).name
    folder = cache_folder(builder, name, cache_dir, more.get("dataset_name"))
    return partial(builder, cache_dir=cache_dir, config_name=config, **more, **fields), folder


def load_task(
    task: str, config: str | None = None, *, cache_dir: str | None = None, streaming: bool = False, **fields: Any
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Build one configuration (or find it in the cache) and return its splits, without progress bars.

    Several processes may load the same configuration at the same time. A damaged cache is rebuilt, with a warning.

    Args:
        task: a name out of `TASKS`.
        config: the configuration's name; or leave it out and give its fields.
        cache_dir: root of the cache; `datasets`' own by default.
        streaming: make rows while they are read, shard by shard. No rows are written, but the cache must still be writable.
        **fields: fields of the configuration; `hf-radial tasks TASK` prints them, with defaults and meanings.

    Returns:
        Splits "train", "validation" (if it has rows) and "test", each in random order. The columns of ``view="classification"``
            are `input_ids` (the operands) and `labels` (the answer's class). The columns of ``view="lm"``, which "digits" and
            "sequences" always have, are `prompt` and `completion` as text (for `task_tokenizer` and `encode`, or for trl), and
            the operands if they are numbers. "text" has the column `text`.

    Raises:
        ValueError: the task is unknown, or the configuration refuses a field or the name. Nothing has been written then.
        OSError: `cache_dir` cannot be written, its disk is full, or another program keeps deleting files in it.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> splits = load_task("modular", operation="a/b", p=5, train_fraction=0.8, cache_dir=folder)
        >>> {name: len(rows) for name, rows in splits.items()}
        {'train': 16, 'test': 4}
        >>> splits["test"][0]
        {'input_ids': [3, 1], 'labels': 3}
    """
    with quietly():
        if flag("streaming", streaming):
            return task_builder(task, config, cache_dir=cache_dir, **fields).as_streaming_dataset()
        return load_rows(*_place(task, config, cache_dir, fields), cache_dir)


def check_cache_dir(cache_dir: Any) -> None:
    """Raise a ValueError unless it is a path or `None`."""
    if cache_dir is not None and not isinstance(cache_dir, (str, os.PathLike)):
        raise ValueError(f"cache_dir={cache_dir!r} must be a path, or None for the cache of datasets")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Turn off the progress bars of `datasets`. The switch is global, so its old state is restored at the end."""
    silent = datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            datasets.utils.enable_progress_bars()
