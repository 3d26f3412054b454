"""JSON and YAML files, read back: a file that is cut, foreign or of another form is an error that names it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", type(None): "nothing", bool: "true or false"}


def read_object(file: Path, keys: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        file: what to read, as UTF-8.
        keys: keys that it must have, with the types of their values.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not JSON, not an object, or lacks a key; the message names the file and what was found.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "run.json"
    >>> _ = file.write_text('{"facts": []}')
    >>> try:
    ...     read_object(file, {"facts": dict})
    ... except ValueError as error:
    ...     print(str(error).replace(str(file), "run.json"))
    run.json: 'facts' is a list, not an object
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise ValueError(f"{file} is a folder, not a file") from None
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{file} is not JSON; it may have been cut while it was written: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds {_name(found)}, not an object")
    for key, kind in (keys or {}).items():
        if key not in found:
            raise ValueError(f"{file} has no {key!r}; it has {', '.join(map(repr, list(found)[:8])) or 'nothing'}")
        if not isinstance(found[key], kind) or (kind is int and isinstance(found[key], bool)):
            raise ValueError(f"{file}: {key!r} is {_name(found[key])}, not {NAMES[kind]}")
    return found


def check_known(names: Iterable[Any], known: Sequence[str], where: str, kind: str) -> None:
    """Raise a ValueError that names the first of `names` that is not in `known`, and the known one that is meant.

    Args:
        where: what the message begins with, such as the file that the names come from.
        kind: what a name is, with `{}` in the place of it.

    >>> check_known(["seeds", "sede"], ["seeds", "arms"], "grid.yaml: ", "key {}")
    Traceback (most recent call last):
    ...
    ValueError: grid.yaml: unknown key 'sede'; did you mean 'seeds'? there are seeds, arms
    """
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ";"
            raise ValueError(f"{where}unknown {kind.format(repr(name))}{meant} there are {', '.join(known)}")


def read_text(file: Path) -> str:
    """The text in a file.

    Raises:
        ValueError: it is not UTF-8; the message names the file.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from error


def read_yaml(file: Path) -> Any:
    """What a YAML file holds; a file with comments only holds `None`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not YAML, or has a key twice; the message names the file and the line.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ValueError(f"{file} is not YAML: {words}") from error


def _name(value: Any) -> str:
    return NAMES.get(type(value), f"a {type(value).__name__}")


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with the same key twice, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                if str(key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
                seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def check_types(made: Any, where: str = "") -> None:
    """Raise a ValueError unless the fields of a dataclass that are annotated as simple types have values of these types.

    A whole number passes as a float, and as an int only if it is one. True and false pass as bool only. Fields annotated as
    anything but bool, int, float, str, or one of these or None, are not looked at.

    Args:
        made: an instance of a dataclass.
        where: what the message begins with, such as the file that the values come from.
    """
    hints = get_type_hints(type(made))
    for each in fields(made):
        hint = hints[each.name]
        allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        value = getattr(made, each.name)
        simple = [kind for kind in allowed if kind in SIMPLE]
        if len(simple) + (type(None) in allowed) < len(allowed) or (value is None and type(None) in allowed):
            continue
        fits = type(value) in simple or (float in simple and type(value) is int)
        whole = isinstance(value, int) and int in simple
        if not fits or (not isinstance(value, str) and not abs(value) <= (LARGEST_WHOLE if whole else sys.float_info.max)):
            advice = ""
            if isinstance(value, str) and float in simple and _is_number(value):
                advice = f"; YAML reads {value} as text: write {float(value):.1e}"
            raise ValueError(f"{where}{each.name}={value!r} must be {' or '.join(SIMPLE[kind] for kind in simple)}{advice}")


LARGEST_WHOLE = 2**63 - 1
SIMPLE: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
