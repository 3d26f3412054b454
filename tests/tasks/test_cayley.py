"""Tables of no group are refused, and the error names the right place, against brute force over elements, pairs and triples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_radial.tasks.cayley import check_group, read_table
from hf_radial.tasks.groups import named_group

pytestmark = pytest.mark.quick

Table = Sequence[Sequence[int]]

# A loop (a Latin square with an identity) in which every element is its own inverse. It is no group: in one of order 5 no
# element but the identity is.
LOOP = [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]


def brute_force(table: Table) -> str:
    """What the error has to say about the first axiom that fails, in plain Python; "" for a group."""
    everything = range(len(table))
    ones = [e for e in everything if all(table[e][x] == x and table[x][e] == x for x in everything)]
    if not ones:
        return "has no identity"
    for a in everything:
        if not any(table[a][b] == ones[0] and table[b][a] == ones[0] for b in everything):
            return f"element {a} has no inverse"
    for a, b, c in product(everything, repeat=3):
        ab, bc = table[a][b], table[b][c]
        if table[ab][c] != table[a][bc]:
            return f"({a} {b}) {c} = {ab} {c} = {table[ab][c]}, but {a} ({b} {c}) = {a} {bc} = {table[a][bc]}."
    return ""


def message(table: Any) -> str:
    """What `check_group` says about it; "" for a group."""
    try:
        check_group(read_table(table))
    except ValueError as error:
        return str(error)
    return ""


def agrees(table: Table) -> bool:
    expected, found = brute_force(table), message(table)
    return expected in found and bool(expected) == bool(found)


def octonion_units() -> list[list[int]]:
    """Table of the 16 units +-e_i of the octonions, by the Cayley-Dickson construction: a loop that is nearly associative."""

    def conjugate(x: list[int]) -> list[int]:
        return [x[0], *(-y for y in x[1:])]

    def times(x: list[int], y: list[int]) -> list[int]:
        if len(x) == 1:
            return [x[0] * y[0]]
        half = len(x) // 2
        (a, b), (c, d) = (x[:half], x[half:]), (y[:half], y[half:])
        first = [p - q for p, q in zip(times(a, c), times(conjugate(d), b), strict=True)]
        return first + [p + q for p, q in zip(times(d, a), times(b, conjugate(c)), strict=True)]

    units = [[sign * (i == j) for j in range(8)] for i in range(8) for sign in (1, -1)]
    return [[units.index(times(x, y)) for y in units] for x in units]


def switched(table: Table, row: int) -> list[list[int]] | None:
    """The Latin square with one 2x2 subsquare turned round, away from the identity's row, column and entries; None without."""
    square = [list(line) for line in table]
    order = len(square)
    for other, x, y in product(range(row + 1, order), range(1, order), range(1, order)):
        one, two = square[row][x], square[row][y]
        if x < y and 0 not in (one, two) and (square[other][x], square[other][y]) == (two, one):
            square[row][x], square[row][y], square[other][x], square[other][y] = two, one, one, two
            return square
    return None


def test_every_table_of_order_two_and_three_is_judged_as_by_brute_force() -> None:
    groups = {1: 1, 2: 2, 3: 3}  # n! / (automorphisms of C_n), for the only group of each order
    for order, expected in groups.items():
        tables = [np.reshape(entries, (order, order)).tolist() for entries in product(range(order), repeat=order**2)]
        assert all(map(agrees, tables))
        assert sum(not message(table) for table in tables) == expected


def test_random_tables_with_identity_and_inverses_are_judged_as_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        order = int(rng.integers(2, 8))
        table = rng.integers(0, order, (order, order))
        table[0], table[:, 0] = np.arange(order), np.arange(order)
        np.fill_diagonal(table, 0)
        relabelled = rng.permutation(order)  # so that the identity is not always 0
        renamed = np.empty_like(table)
        renamed[np.ix_(relabelled, relabelled)] = relabelled[table]
        assert agrees(renamed.tolist())
        seen.add(brute_force(renamed.tolist())[:1])
    assert seen == {"", "("}


@pytest.mark.parametrize("table", [LOOP, octonion_units()], ids=["loop of order 5", "octonion units"])
def test_a_loop_with_inverses_is_no_group_and_its_first_triple_is_named(table: Table) -> None:
    assert all(sorted(line) == list(range(len(table))) for line in [*table, *zip(*table, strict=True)])
    assert brute_force(table).startswith("(")
    assert agrees(table)


@pytest.mark.parametrize("name", ["s4", "d12", "q24", "q8", "d4"])
def test_four_wrong_entries_of_a_group_are_found_wherever_they_are(name: str) -> None:
    """The generators that Light's test looks at are few, but what fails for any element must fail for one of them."""
    table = named_group(name).table.tolist()
    found = 0
    for row in range(1, len(table)):
        loop = switched(table, row)
        if loop is not None:
            found += 1
            assert brute_force(loop)
            assert agrees(loop)
    assert found > 1


@pytest.mark.parametrize("name", ["s3", "s4", "a4", "c2", "c12", "d2", "d3", "d7", "q8", "q12", "q16"])
def test_a_renumbered_group_is_still_one_and_its_identity_is_found(name: str) -> None:
    table = named_group(name).table
    assert brute_force(table.tolist()) == ""
    order = np.random.default_rng(1).permutation(len(table)).astype(np.int32)
    renumbered = np.empty_like(table)
    renumbered[np.ix_(order, order)] = order[table]
    assert check_group(read_table(renumbered)) == order[0]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([[0, 1], [1, 0], [0, 0]], "square, but row 0 has 2 entries and there are 3 rows"),
        ([[0, 1, 2], [1, 2], [2, 0, 1]], "square, but row 1 has 2 entries and there are 3 rows"),
        ([[0, 1], 3], "square, but row 1 is not a list"),
        (np.zeros((2, 3), dtype=int), "square, but row 0 has 3 entries and there are 2 rows"),
        (np.zeros(3, dtype=int), r"shape \(3,\)"),
        ([], "is empty"),
        ([[0, 1], [1, 0.5]], r"entry \[1\]\[1\] is 0.5"),
        ([[0, 1], [True, False]], r"entry \[1\]\[0\] is True"),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), r"entry \[0\]\[0\] is 0.0"),
        ([["e", "a"], ["a", "e"]], r"entry \[0\]\[0\] is 'e'; number the elements .*elements="),
        ([[0, None], [1, 0]], r"entry \[0\]\[1\] is None"),
        ([[0, [1]], [1, 0]], r"entry \[0\]\[1\] is \[1\]"),
        ([[0, 1], [2**70, 0]], r"not closed: entry \[1\]\[0\] is 1180591620717411303424"),
        ([[0, 1], [1, -1]], r"not closed: entry \[1\]\[1\] is -1, but its 2 elements have the numbers 0 to 1"),
        ([[0, 1, 2], [1, 2, 0], [2, 3, 1]], r"not closed: entry \[2\]\[1\] is 3"),
        ([[0, 1, 2], [0, 1, 2], [0, 1, 2]], r"no identity: e = 0 .*not x e = x: entry \[1\]\[0\] is 0 instead of 1"),
        ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], r"no identity: e = 0 .*not e x = x: entry \[0\]\[1\] is 0 instead of 1"),
        ([[0, 2, 1], [2, 1, 0], [1, 0, 2]], "no identity: no element"),
        ([[0, 1], [1, 1]], "element 1 has no inverse: neither row 1 nor column 1 holds the identity 0"),
        ([[0, 1, 2], [1, 2, 0], [2, 1, 1]], "element 1 has no inverse: 1 2 is the identity 0, but 2 1 = 1"),
        ([[0, 1, 2], [1, 1, 2], [2, 0, 0]], "element 1 has no inverse: 2 1 is the identity 0, but 1 2 = 2"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_the_place(table: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_group(read_table(table))


def test_a_table_is_the_same_from_a_list_an_array_and_every_kind_of_file(tmp_path: Path) -> None:
    rows = named_group("s3").table.tolist()
    (tmp_path / "plain.csv").write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
    spreadsheet = "\r\n".join(", ".join(f'"{entry}"' if entry == 3 else str(entry) for entry in row) for row in rows)
    (tmp_path / "spreadsheet.CSV").write_bytes(f"\ufeff{spreadsheet}\r\n\r\n".replace(', "', ',"').encode())
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    np.save(tmp_path / "array.npy", np.array(rows, dtype=np.uint8))
    for path in tmp_path.iterdir():
        assert read_table(path).tolist() == rows
        assert read_table(str(path)).tolist() == rows
    assert read_table(tuple(map(tuple, rows))).tolist() == rows
    assert read_table(np.array(rows, dtype=np.int16)).tolist() == rows


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("header.csv", b"e,a\n0,1\n1,0\n", "square, but row 0 has 2 entries and there are 3 rows"),
        ("names.csv", b"e,a\na,e\n", r"entry \[0\]\[0\] is 'e'"),
        ("dict.json", b'{"table": [[0]]}', "holds a dict, not a list of rows"),
        ("half.json", b"[[0, 1], [1", "cannot be read"),
        ("bytes.csv", b"\xff\xfe\x00", "cannot be read"),
        ("text.npy", b"0 1\n1 0\n", "cannot be read"),
        ("table.txt", b"0 1\n1 0\n", "must be a .csv, .npy or .json file"),
        ("nothing.csv", b"", "is empty"),
    ],
)
def test_a_file_that_holds_no_table_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_table(tmp_path / name)
    assert name in str(error.value)


def test_a_missing_file_and_a_pickled_array_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[0, None], [1, 0]], dtype=object))
    for name in ("objects.npy", "missing.npy"):
        with pytest.raises(ValueError, match=rf"{name}' cannot be read"):
            read_table(tmp_path / name)
