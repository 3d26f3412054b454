"""The fields of a task, and the content of a configuration (sizes, rows, leaks, checksums), as data and as text.

In here: `task_fields`, `describe_task` and `shelf_checksums`, which `hf-radial tasks` and the dataset cards use, and
their text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from hf_radial.tasks.base import TaskConfig
from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.load import TASKS, builder_class, load_task, task_builder
from hf_radial.tasks.splits import leakage


def task_fields(task: str) -> dict[str, tuple[Any, str]]:
    """Default and meaning of each field of a task's configurations, in the order of the documentation.

    The meanings come from the docstrings of the configuration's class and of its parents. The class itself overrides its
    parents.

    Raises:
        ValueError: no such task.

    Example:
        >>> for field, (default, meaning) in list(task_fields("modular").items())[1:3]:
        ...     print(f"{field}={default!r}: {meaning}")
        p=97: the modulus, at least 2; prime for operations that divide.
        train_fraction=0.5: share of all rows to train on, between 0 and 1 (rounded to whole rows).
    """
    config_class = builder_class(task).BUILDER_CONFIG_CLASS
    meanings: dict[str, str] = {}
    for parent in config_class.__mro__:
        if issubclass(parent, TaskConfig):
            meanings = {**meanings, **{field: text for field, text in _arguments(parent).items() if field not in meanings}}
    del meanings["name"]
    defaults = config_class.__dataclass_fields__
    return {field: (defaults[field].default, meaning) for field, meaning in meanings.items()}


def _arguments(documented: type) -> dict[str, str]:
    """The section "Args:" of a class's docstring, with each argument's text on one line."""
    _, _, section = (documented.__doc__ or "").partition("Args:\n")
    arguments: dict[str, str] = {}
    field = ""
    for line in textwrap.dedent(section.split("\n\n")[0]).splitlines():
        if line.startswith(" "):
            arguments[field] += f" {line.strip()}"
        elif line:
            field, _, meaning = line.partition(": ")
            arguments[field] = meaning
    return arguments


def describe_task(task: str, config: str | None = None, *, cache_dir: str | None = None, **fields: Any) -> dict[str, Any]:
    """A complete description of a configuration that can be written as JSON.

    Args:
        task, config, cache_dir, **fields: as for `hf_radial.tasks.load_task`. The rows are built into the cache.

    Returns:
        `task`, `config`, `version` of the rows, `fields`, `description`, `source`, `splits` (rows, checksum and first row of
        each), `leakage` (as `hf_radial.tasks.leakage` gives it; None for plain text).

    Example:
        >>> import tempfile
        >>> about = describe_task("modular", p=5, cache_dir=tempfile.mkdtemp())
        >>> about["config"], about["splits"]["train"]["rows"], about["leakage"]
        ('add_p5_f0.5_s0', 13, {'ordered': 0, 'commuted': 7})
    """
    builder = task_builder(task, config, cache_dir=cache_dir, **fields)
    splits = load_task(task, config, cache_dir=cache_dir, **fields)
    return {
        "task": task,
        "config": builder.config.name,
        "version": str(builder.VERSION),
        "fields": builder.config.options(),
        "description": builder.info.description,
        "source": builder.SOURCE,
        "splits": {split: {"rows": len(rows), "checksum": checksum(rows), "first": rows[0]} for split, rows in splits.items()},
        "leakage": None if "text" in splits["train"].column_names else leakage(splits, builder.REORDERINGS),
    }


def shelf_checksums(cache_dir: str | None = None, task: str | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """Name `task/configuration` and checksum of each split, for the shelf of one task or of all of ours. No rows are cached."""
    for name in TASKS.ours if task is None else [task]:
        for config in builder_class(name).SHELF:
            splits = load_task(name, config, cache_dir=cache_dir, streaming=True)
            yield f"{name}/{config}", {split: checksum(rows) for split, rows in splits.items()}


def shelf_table(task: str | None = None) -> str:
    """All tasks as text: summary, source and the configurations on the shelf. For a single task, also its fields."""
    lines = []
    for name, builder in TASKS.loaded() if task is None else [(task, builder_class(task))]:
        lines += [name, f"  {builder.SUMMARY}", f"  source: {builder.SOURCE}"]
        if name not in TASKS.ours:
            lines.append(f"  from: {TASKS.source(name).package}")
        if task is not None:
            lines.append("  fields, with their defaults:")
            for field, (default, meaning) in task_fields(task).items():
                text = f"{field}={default!r}: {meaning}"
                lines.append(
                    textwrap.fill(text, 120, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
                )
            lines.append("  on the shelf:")
        lines += [f"    {config}" for config in builder.SHELF]
    return "\n".join(lines)


def task_text(about: dict[str, Any]) -> str:
    """The result of `describe_task` as text."""
    lines = [f"{about['task']}/{about['config']}, version {about['version']}", f"  {about['description']}"]
    lines += [f"  {field} = {value!r}" for field, value in about["fields"].items()]
    for split, part in about["splits"].items():
        lines.append(f"{split}: {part['rows']:,} rows, checksum {part['checksum']}")
        lines.append(f"  {part['first']}")
    if (counts := about["leakage"]) is not None:
        lines.append(f"rows with the same operands in two splits: {counts['ordered']:,}")
        if "commuted" in counts:
            lines.append(f"held-out rows whose operands are in an earlier split in another order: {counts['commuted']:,}")
    return "\n".join(lines)
