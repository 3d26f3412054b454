"""Checks of what a grid file holds. Each returns the value, or raises a ValueError with the file, the place and the value.

In here: one value, one range, and the names of options. Not in here: what belongs together in a file (`grid`), and the values
of a run's options (`run`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_radial.comparison.run_options import check_names


def mapping(file: Path, name: str, value: Any) -> dict[str, Any]:
    """A mapping with text keys. `None` gives an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{file}: {name}={value!r} must be a mapping, such as {{name: value}}, whose names are texts")
    return dict(value)


def text(file: Path, name: str, value: Any) -> str:
    """A text; YAML reads many words and numbers as something else."""
    if not isinstance(value, str):
        raise ValueError(f"{file}: {name}={value!r} must be a text; put it in quotes")
    return value


def values_of(file: Path, name: str, value: Any) -> list[Any]:
    """A list that is not empty."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{file}: {name}={value!r} must be a list of at least one value")
    return value


def whole_number(file: Path, name: str, value: Any, low: int = 1) -> int:
    """A whole number of at least `low`."""
    if type(value) is not int or value < low:
        raise ValueError(f"{file}: {name}={value!r} must be a whole number of at least {low}")
    return value


def seeds_of(file: Path, name: str, value: Any) -> tuple[int, ...]:
    """Seeds, each once and as NumPy takes them."""
    seeds = value if isinstance(value, list) else []
    whole = all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{file}: {name}={value!r} must be a list of at least one seed, each once, such as [0, 1, 2]: whole numbers from 0 "
            "to 2**32 - 1"
        )
    return tuple(seeds)


def bounds(choice: Any, name: str) -> tuple[str, list[Any]]:
    """The kind of a range, and its ends or values.

    Raises:
        ValueError: `choice` is not a range. The message contains `name`.

    >>> bounds({"log": [0.1, 10]}, "weight_decay")
    ('log', [0.1, 10.0])
    """
    kind, values = next(iter(choice.items())) if isinstance(choice, Mapping) and len(choice) == 1 else (None, None)
    if kind == "choices" and isinstance(values, list) and values:
        return kind, values
    if kind in ("log", "linear") and isinstance(values, list) and len(values) == 2:
        numbers = [float(value) for value in values if type(value) in (int, float) and abs(value) <= sys.float_info.max]
        if len(numbers) == 2 and numbers[0] < numbers[1] and (kind == "linear" or numbers[0] > 0):
            return kind, numbers
    raise ValueError(
        f"{name}: {choice!r} must be {{log: [low, high]}} with 0 < low < high, {{linear: [low, high]}} with low < high, or "
        "{choices: [...]}; YAML reads 1e-3 as text, so write 1.0e-3"
    )


def check_options(file: Path, data: Any, base: dict[str, Any], axes: dict[str, Any], arms: Sequence[Any]) -> None:
    """Every option of a run that the file sets or draws exists. A drawn value may instead fill `{name}` in an intervention."""
    filled = re.findall(r"\{(\w+)\}", json.dumps(data, default=str))
    drawn = {
        f"{design}: common": mapping(file, f"{design}: common", mapping(file, design, data.get(design)).get("common"))
        for design in ("tuning", "paired")
    } | {f"arm {arm.name!r}: tune": arm.tune for arm in arms}
    given = {
        "base": base,
        "axes": {name: None for name in axes if name != "cell"},
        "axes: a value of cell": {name: None for cell in axes.get("cell", ()) for name in cell},
        **{f"arm {arm.name!r}: options": arm.options for arm in arms},
        **{
            where: [name for name, choice in ranges.items() if choice and name not in filled] for where, ranges in drawn.items()
        },
    }
    for where, names in given.items():
        check_names(names, f"{file}: {where}: ", without=("seed",))  # seeds have keys of their own
