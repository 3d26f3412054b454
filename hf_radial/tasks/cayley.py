"""Cayley tables given by the user: read from a list, an array or a file, and checked to be the table of a group.

A Cayley table of order n has `(n, n)` entries. Elements are numbered from 0, and `table[x, y]` is the product x y. An error
names the place of the fault (the entry, the element or the triple), counted from 0.

In here: `read_table` and `check_group`. Not in here: the groups that have a name (`groups.py`).
"""

from __future__ import annotations

import csv
import json
import operator
import os
from pathlib import Path
from typing import Any

import numpy as np

from hf_radial.tasks.checks import shown


def read_table(given: Any, name: str = "cayley_table") -> np.ndarray:
    """A copy of a Cayley table as an array. It is closed, but other axioms of a group are not checked.

    Args:
        given: rows of whole numbers (lists or an array), or the path of a .csv (numbers only, no header), .npy or .json file.
        name: the argument's name in error messages.

    Returns:
        `(n, n)` int32 with entries from 0 to n - 1, read-only.

    Raises:
        ValueError: the file cannot be read, the table is empty or not square, or an entry is not the number of an element.

    Example:
        >>> read_table([[0, 1], [1, 0]]).tolist()
        [[0, 1], [1, 0]]
        >>> read_table([[0, 1], [1, 2]])
        Traceback (most recent call last):
        ...
        ValueError: cayley_table is not closed: entry [1][1] is 2, but its 2 elements have the numbers 0 to 1.
    """
    if isinstance(given, str | os.PathLike):
        name, given = f"{name} ({os.fspath(given)})", _read_file(Path(given), name)
    rows = given if isinstance(given, list | tuple) else np.asarray(given)
    if isinstance(rows, np.ndarray) and rows.ndim != 2:
        raise ValueError(f"{name} must be a square table of element numbers, got an array of shape {rows.shape}.")
    if not len(rows):
        raise ValueError(f"{name} is empty; a group has at least its identity.")
    order = len(rows)
    for x, row in enumerate(rows):
        length = len(row) if isinstance(row, list | tuple | np.ndarray) else None
        if length != order:
            found = "is not a list" if length is None else f"has {length} entries"
            raise ValueError(f"{name} must be square, but row {x} {found} and there are {order} rows.")
    numbers = rows if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" else _whole_numbers(rows, name)
    outside = (numbers < 0) | (numbers >= order)
    if outside.any():
        place = np.unravel_index(int(outside.argmax()), outside.shape)
        raise ValueError(
            f"{name} is not closed: entry [{place[0]}][{place[1]}] is {numbers[place]}, but its {order} elements have "
            f"the numbers 0 to {order - 1}."
        )
    table = numbers.astype(np.int32)
    table.setflags(write=False)  # the configuration's name contains its hash
    return table


def _read_file(path: Path, name: str) -> Any:
    """The rows of a file, read by its extension. Cells of a .csv become numbers where possible."""
    readers = {".csv": _read_csv, ".npy": lambda file: np.load(file, allow_pickle=False), ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{name}={shown(os.fspath(path))} must be a .csv, .npy or .json file, or the rows themselves.")
    try:
        return readers[path.suffix.lower()](path)
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise ValueError(f"{name}={os.fspath(path)!r} cannot be read: {error}") from error


def _read_csv(path: Path) -> list[list[Any]]:
    # utf-8-sig: spreadsheets put a byte order mark in front of the first cell.
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [[_number_or_text(cell.strip()) for cell in row] for row in csv.reader(file) if row]


def _number_or_text(cell: str) -> int | str:
    try:
        return int(cell)
    except ValueError:
        return cell


def _read_json(path: Path) -> list[Any]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"it holds a {type(rows).__name__}, not a list of rows.")
    return rows


def _whole_numbers(rows: Any, name: str) -> np.ndarray:
    """`rows` as an array of Python integers, checked one by one: NumPy would accept True as 1 and 2**70 as a float."""
    for x, row in enumerate(rows):
        for y, entry in enumerate(row):
            try:
                operator.index(entry)
                whole = not isinstance(entry, bool | np.bool_)
            except TypeError:
                whole = False
            if not whole:
                value = entry.item() if isinstance(entry, np.generic) else entry
                raise ValueError(
                    f"{name} must hold whole numbers, but entry [{x}][{y}] is {value!r}; number the elements from 0 "
                    "(their names can be given as elements=[...])."
                )
    return np.array([list(row) for row in rows], dtype=object)


def check_group(table: np.ndarray, name: str = "cayley_table") -> int:
    """Check the axioms of a group, in the order identity, inverses, associativity.

    Associativity is exact and costs O(n^2 log n). The equation (x a) y = x (a y), for all x and y, is checked only for
    generators a (Light's test; Clifford and Preston 1961, section 1.2). That is enough because the elements a for which it
    holds are closed under products. An element becomes a generator only after it has passed, so each generator at least doubles
    the generated set, as in a group.

    Args:
        table: `(n, n)` as from `read_table`.
        name: the argument's name in error messages.

    Returns:
        The number of the identity.

    Raises:
        ValueError: an axiom fails. The error names the element without an inverse, or the lexicographically first triple that
            is not associative with both of its values.

    Example:
        >>> check_group(np.array([[1, 0], [0, 1]]))
        1
        >>> check_group(np.array([[0, 1, 2], [1, 0, 2], [2, 2, 0]]))
        Traceback (most recent call last):
        ...
        ValueError: cayley_table is not a group, because it is not associative: (1 2) 2 = 2 2 = 0, but 1 (2 2) = 1 0 = 1.
    """
    identity = _identity(table, name)
    _check_inverses(table, identity, name)
    triple = unassociative_triple(table, identity)
    if triple is not None:
        a, b, c = triple
        ab, bc = table[a, b], table[b, c]
        raise ValueError(
            f"{name} is not a group, because it is not associative: ({a} {b}) {c} = {ab} {c} = {table[ab, c]}, "
            f"but {a} ({b} {c}) = {a} {bc} = {table[a, bc]}."
        )
    return identity


def _identity(table: np.ndarray, name: str) -> int:
    every = np.arange(len(table))
    from_left, from_right = (table == every).all(axis=1), (table == every[:, None]).all(axis=0)
    if (from_left & from_right).any():
        return int((from_left & from_right).argmax())
    problem = f"no element e has e x = x for all x (a row that reads 0 to {len(table) - 1}), nor x e = x (such a column)"
    if from_left.any():
        e = int(from_left.argmax())
        x = int((table[:, e] != every).argmax())
        problem = f"e = {e} has e x = x for all x, but not x e = x: entry [{x}][{e}] is {table[x, e]} instead of {x}"
    elif from_right.any():
        e = int(from_right.argmax())
        x = int((table[e] != every).argmax())
        problem = f"e = {e} has x e = x for all x, but not e x = x: entry [{e}][{x}] is {table[e, x]} instead of {x}"
    raise ValueError(f"{name} is not a group, because it has no identity: {problem}.")


def _check_inverses(table: np.ndarray, identity: int, name: str) -> None:
    hit = table == identity
    has_inverse = (hit & hit.T).any(axis=1)
    if has_inverse.all():
        return
    a = int((~has_inverse).argmax())
    problem = f"neither row {a} nor column {a} holds the identity {identity}"
    if hit[a].any():
        b = int(hit[a].argmax())
        problem = f"{a} {b} is the identity {identity}, but {b} {a} = {table[b, a]}"
    elif hit[:, a].any():
        b = int(hit[:, a].argmax())
        problem = f"{b} {a} is the identity {identity}, but {a} {b} = {table[a, b]}"
    raise ValueError(f"{name} is not a group, because element {a} has no inverse: {problem}.")


def unassociative_triple(table: np.ndarray, identity: int) -> tuple[int, int, int] | None:
    """The lexicographically first (a, b, c) with (a b) c != a (b c), or None. As for `check_group`.

    Args:
        table: `(n, n)`, with inverses.
        identity: its number. It needs no check, because it associates with everything.
    """
    generated = np.zeros(len(table), dtype=bool)
    generated[identity] = True
    while not generated.all():
        generator = int((~generated).argmax())
        differs = table[table[:, generator]] != table[:, table[generator]]  # (x a) y and x (a y), at [x, y]
        if differs.any():
            return _first_triple(table, int(differs.any(axis=1).argmax()))
        generated[generator] = True
        _close(generated, table)
    return None


def _close(members: np.ndarray, table: np.ndarray) -> None:
    """Add all products of `members` `(n,)` bool, in place, until there are no more."""
    before = 0
    while members.sum() > before:
        before = int(members.sum())
        here = np.flatnonzero(members)
        members[table[np.ix_(here, here)].reshape(-1)] = True


def _first_triple(table: np.ndarray, last: int) -> tuple[int, int, int]:
    """The lexicographically first triple, where one beginning with `last` exists. One `(n, n)` comparison per first element."""
    a = next(a for a in range(last + 1) if (table[table[a]] != table[a][table]).any())
    b, c = np.unravel_index(int((table[table[a]] != table[a][table]).argmax()), table.shape)  # (a b) c and a (b c), at [b, c]
    return a, int(b), int(c)
