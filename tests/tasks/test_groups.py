"""Group products: every row against Python's tuples, every named group against the axioms, its presentation and its classes."""

from __future__ import annotations

import itertools
import json
import math
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_radial.tasks.cayley import check_group
from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.groups import GroupConfig, GroupMultiplication, alternating, named_group, symmetric
from hf_radial.tasks.load import load_task, task_builder, task_config
from hf_radial.tasks.splits import leakage
from hf_radial.tasks.tokenizer import encode, task_tokenizer

KLEIN = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]

BAD_INPUT: list[tuple[str, dict[str, Any], str]] = [
    ("groups", {"group": "s7"}, r"group='s7' \(symmetric\): its number must be a whole number from 3 to 6, got 7"),
    ("groups", {"group": "a2"}, r"from 3 to 6, got 2"),
    ("groups", {"group": "d1"}, r"of at least 2, got 1"),
    ("groups", {"group": "q10"}, r"multiple of 4; the nearest are 8 and 12"),
    ("groups", {"group": "q4"}, r"of at least 8, got 4"),
    ("groups", {"group": "m11"}, r"group='m11' is unknown\. There are: s3 to s6"),
    ("groups", {"group": 5}, r"group=5 is unknown"),
    ("groups", {"group": "c7072"}, r"50,013,184 rows, but at most 50,000,000 can be made; take a smaller group than c7072"),
    ("groups", {"operation": "commute"}, r"operation='commute' is unknown; did you mean .*There are: compose, conjugate, aba"),
    ("groups", {"config": "s5_twist_f0.5_s0"}, r"not a configuration of this task; one is 's5_f0.5_s0'"),
    ("groups", {"config": "s05_f0.5_s0"}, r"must be written 's5_f0.5_s0'"),
    ("groups", {"config": "s7_f0.5_s0"}, r"from 3 to 6, got 7"),
    ("groups", {"config": "s5_f0.5_s0", "group": "a5"}, r"group='a5' contradicts the name 's5_f0.5_s0'"),
    ("groups", {"config": "table4-0123456789ab_f0.5_s0"}, r"cannot be made from its name alone; pass it as cayley_table="),
    ("groups", {"config": "table4-0123456789ab_f0.5_s0", "cayley_table": KLEIN}, r"is not the given cayley_table, which is"),
    ("groups", {"group": "s5", "cayley_table": KLEIN}, r"group='s5' is not the given cayley_table"),
    ("groups", {"cayley_table": [[0]]}, r"one element, so one row"),
    ("groups", {"cayley_table": [[0, 1], [1, 2]]}, r"not closed: entry \[1\]\[1\] is 2"),
    ("groups", {"cayley_table": [[1, 0], [1, 0]]}, r"has no identity"),
    ("groups", {"cayley_table": [[0, 1], [1, 1]]}, r"element 1 has no inverse"),
    ("groups", {"cayley_table": [[0, 1, 2], [1, 0, 2], [2, 2, 0]]}, r"not associative: \(1 2\) 2 = 2 2 = 0, but 1 \(2 2\)"),
    ("groups", {"cayley_table": "no_such_table.csv"}, r"cayley_table='no_such_table.csv' cannot be read"),
    ("groups", {"elements": ["e", "a"]}, r"pass that too, or leave elements out"),
    ("groups", {"cayley_table": KLEIN, "elements": "eabc"}, r"elements must be a list of words"),
    ("groups", {"cayley_table": KLEIN, "elements": ["e", "a", "b"]}, r"each of the 4 elements of cayley_table, got 3"),
    ("groups", {"cayley_table": KLEIN, "elements": ["e", "a", "b", "a"]}, r"elements 1 and 3 are both 'a'"),
    ("groups", {"cayley_table": KLEIN, "elements": ["e", "a", "b", "a b"]}, r"without spaces, but element 3 is 'a b'"),
    ("groups", {"cayley_table": KLEIN, "elements": ["e", "=", "b", "c"]}, r"element 1 is '='"),
    ("groups", {"group": "c2", "train_fraction": 0.1}, r"leaves the split 'train' of 4 rows empty"),
]  # fmt: skip

Element = tuple[Any, ...]


def first_then(x: Element, y: Element) -> Element:
    """Permutations from left to right: where x sends i is where y goes on from."""
    return tuple(y[point] for point in x)


def even(permutation: Element) -> bool:
    """By cycles: a cycle of length k is k - 1 swaps."""
    left, swaps = set(range(len(permutation))), 0
    while left:
        point = start = left.pop()
        while permutation[point] != start:
            point = permutation[point]
            left.discard(point)
            swaps += 1
    return swaps % 2 == 0


def one_line(n: int, only_even: bool = False) -> dict[str, Element]:
    """Word -> permutation, in the order of the words."""
    return {"".join(map(str, p)): p for p in sorted(itertools.permutations(range(n))) if even(p) or not only_even}


def polygon(n: int) -> dict[str, Element]:
    """r0 .. s0 .. as the places to which the corners of a polygon go: s is applied first, then r that many times."""
    return {
        f"{kind}{i}": tuple((i + sign * corner) % n for corner in range(n))
        for kind, sign in (("r", 1), ("s", -1))
        for i in range(n)
    }


def matrices(order: int) -> tuple[dict[str, Element], Callable[[Element, Element], Element]]:
    """a0 .. b0 .. as 2x2 matrices over a field with an element of that many roots of 1, and their product."""
    m = order // 4
    prime = next(p for p in itertools.count(2 * m + 1, 2 * m) if all(p % d for d in range(2, p)))
    root = next(
        w for w in range(2, prime) if [pow(w, i, prime) for i in range(1, 2 * m + 1)].count(1) == 1 == pow(w, 2 * m, prime)
    )

    def times(x: Element, y: Element) -> Element:
        return tuple(sum(x[2 * i + k] * y[2 * k + j] for k in range(2)) % prime for i in range(2) for j in range(2))

    elements, power = {}, (1, 0, 0, 1)
    for i in range(2 * m):
        elements[f"a{i}"] = power
        power = times(power, (root, 0, 0, pow(root, prime - 2, prime)))
    elements |= {f"b{i}": times(elements[f"a{i}"], (0, prime - 1, 1, 0)) for i in range(2 * m)}
    return elements, times


def reference(group: str) -> tuple[dict[str, Element], Callable[[Element, Element], Element]]:
    """Word -> element, and the product of two elements."""
    number = int(group[1:])
    if group[0] in "sa":
        return one_line(number, only_even=group[0] == "a"), first_then
    if group[0] == "d":
        return polygon(number), lambda x, y: first_then(y, x)  # maps of the plane: the right one first
    if group[0] == "c":
        return {f"r{i}": (i,) for i in range(number)}, lambda x, y: ((x[0] + y[0]) % number,)
    elements, times = matrices(number)
    if number == 8:
        spelt = {"a0": "1", "a1": "i", "a2": "-1", "a3": "-i", "b0": "j", "b1": "k", "b2": "-j", "b3": "-k"}
        elements = {spelt[word]: element for word, element in elements.items()}
    return elements, times


def order_of(table: np.ndarray, x: int) -> int:
    power, order = x, 1
    while power != 0:
        power, order = int(table[power, x]), order + 1
    return order


def power_of(table: np.ndarray, x: int, exponent: int) -> int:
    power = 0
    for _ in range(exponent):
        power = int(table[power, x])
    return power


@pytest.mark.parametrize(
    "group", ["s3", "s4", "s5", "a3", "a4", "a5", "c2", "c7", "d3", "d4", "d12", "q8", "q12", "q16", "q24"]
)
@pytest.mark.parametrize("operation", ["compose", "conjugate", "aba"])
def test_every_row_is_what_tuples_give(tmp_path: Path, group: str, operation: str) -> None:
    elements, times = reference(group)
    words, numbers = list(elements), {element: number for number, element in enumerate(elements.values())}
    assert len(numbers) == len(words)
    inverse = {x: next(y for y in numbers if numbers[times(x, y)] == 0) for x in numbers}
    answer = {
        "compose": times,
        "conjugate": lambda x, y: times(times(x, y), inverse[x]),
        "aba": lambda x, y: times(times(x, y), x),
    }[operation]
    expected = {(numbers[x], numbers[y]): numbers[answer(x, y)] for x in numbers for y in numbers}
    fields: dict[str, Any] = {"group": group, "operation": operation, "train_fraction": 0.4, "cache_dir": str(tmp_path)}
    splits = load_task("groups", **fields)
    found = [((*row["input_ids"],), row["labels"]) for rows in splits.values() for row in rows]
    assert len(found) == len(expected)
    assert dict(found) == expected
    assert len(splits["train"]) == math.floor(len(expected) * 0.4 + 0.5)

    sign = "*" if operation == "compose" else "o"
    texts = load_task("groups", **fields, view="lm")
    for row in itertools.chain(*texts.values()):
        assert row["prompt"] == f"{words[row['x']]} {sign} {words[row['y']]} ="
        assert row["completion"] == f" {words[expected[row['x'], row['y']]]}"
    assert [(row["x"], row["y"]) for row in texts["train"]] == [(*row["input_ids"],) for row in splits["train"]]


def test_the_convention_is_first_x_then_y() -> None:
    """One row by hand: x sends 0 to 1, y sends 1 to 2, so that x y sends 0 to 2; from right to left it would stay at 1."""
    words = symmetric(3).words
    assert words[symmetric(3).table[words.index("102"), words.index("021")]] == "201"
    assert words[symmetric(3).table[words.index("021"), words.index("102")]] == "120"


def test_all_products_in_s6_are_those_of_permutation_matrices_and_are_made_in_little_time_and_memory() -> None:
    named_group.cache_clear()
    tracemalloc.start()
    start = time.process_time()
    table = named_group("s6").table
    check_group(table)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 32e6
    # Row i of a matrix holds its 1 in column x(i); row vectors go through x first. A rank counts the later, smaller entries.
    matrices = np.eye(6, dtype=np.int8)[np.array(list(itertools.permutations(range(6))))]
    for x in range(720):
        images = (matrices[x] @ matrices).argmax(axis=2)
        smaller_later = np.stack([(images[:, i + 1 :] < images[:, i : i + 1]).sum(axis=1) for i in range(6)], axis=1)
        assert np.array_equal(table[x], smaller_later @ [120, 24, 6, 2, 1, 0])


@pytest.mark.parametrize(
    "group", ["s3", "s4", "s5", "s6", "a3", "a4", "a5", "a6", "c2", "c97", "d2", "d3", "d59", "q8", "q12", "q36", "q64"]
)
def test_every_named_group_satisfies_the_axioms_with_identity_zero(group: str) -> None:
    config, structure = GroupConfig(group=group), named_group(group)
    assert check_group(structure.table) == 0
    assert structure.table.shape == (config.order, config.order)
    assert len(set(structure.words)) == config.order
    everything = np.arange(config.order)
    assert not structure.table[everything, structure.inverses()].any()


@pytest.mark.parametrize(
    ("group", "sizes"),
    [
        ("s3", [1, 2, 3]),
        ("s4", [1, 3, 6, 6, 8]),
        ("s5", [1, 10, 15, 20, 20, 24, 30]),
        ("a4", [1, 3, 4, 4]),
        ("a5", [1, 12, 12, 15, 20]),
        ("q8", [1, 1, 2, 2, 2]),
        ("d4", [1, 1, 2, 2, 2]),
        ("d5", [1, 2, 2, 5]),
        ("c6", [1] * 6),
    ],
)
def test_conjugacy_classes_have_their_known_sizes_and_are_what_conjugation_gives(
    tmp_path: Path, group: str, sizes: list[int]
) -> None:
    rows = load_task("groups", group=group, operation="conjugate", cache_dir=str(tmp_path))
    classes: dict[int, set[int]] = {}
    for row in itertools.chain(*rows.values()):
        classes.setdefault(row["input_ids"][1], set()).add(row["labels"])
    assert sorted(map(len, {frozenset(members) for members in classes.values()})) == sizes


def test_elements_have_their_known_orders() -> None:
    def orders(group: str) -> Counter[int]:
        table = named_group(group).table
        return Counter(order_of(table, x) for x in range(len(table)))

    assert orders("q8") == {1: 1, 2: 1, 4: 6}
    assert orders("d4") == {1: 1, 2: 5, 4: 2}
    assert orders("d2") == {1: 1, 2: 3}  # Klein's four-group
    assert orders("q16") == {1: 1, 2: 1, 4: 10, 8: 4}
    assert orders("a5") == {1: 1, 2: 15, 3: 20, 5: 24}
    assert orders("a6") == {1: 1, 2: 45, 3: 80, 4: 90, 5: 144}
    assert orders("s6") == {1: 1, 2: 75, 3: 80, 4: 180, 5: 144, 6: 240}
    assert orders("c12") == {1: 1, 2: 1, 3: 2, 4: 2, 6: 2, 12: 4}


def test_the_units_of_the_quaternions_multiply_as_hamilton_wrote() -> None:
    words, table = named_group("q8").words, named_group("q8").table
    product = {(words[x], words[y]): words[table[x, y]] for x in range(8) for y in range(8)}
    for x, y, z in ("ijk", "jki", "kij"):
        assert (product[x, y], product[y, x], product[x, x]) == (z, f"-{z}", "-1")
    assert product[product["i", "j"], "k"] == "-1"


@pytest.mark.parametrize("n", [2, 3, 4, 9, 59])
def test_the_dihedral_group_has_its_presentation(n: int) -> None:
    table = named_group(f"d{n}").table
    r, s = 1, n
    assert (named_group(f"d{n}").words[r], named_group(f"d{n}").words[s]) == ("r1", "s0")
    assert power_of(table, r, n) == 0 and order_of(table, r) == n and table[s, s] == 0
    assert table[table[s, r], s] == power_of(table, r, n - 1)
    assert sorted([*(power_of(table, r, i) for i in range(n)), *(table[power_of(table, r, i), s] for i in range(n))]) == [
        *range(2 * n)
    ]
    assert GroupConfig(group=f"d{n}").order == 2 * n


@pytest.mark.parametrize("order", [8, 12, 20, 32])
def test_the_dicyclic_group_has_its_presentation(order: int) -> None:
    table, m = named_group(f"q{order}").table, order // 4
    a, b = 1, 2 * m
    assert order_of(table, a) == 2 * m
    assert table[b, b] == power_of(table, a, m)
    assert table[table[power_of(table, b, 3), a], b] == power_of(table, a, 2 * m - 1)


def test_an_alternating_group_is_the_part_of_the_symmetric_one_that_it_says() -> None:
    for n in (3, 4, 5):
        part, whole = alternating(n), symmetric(n)
        place = np.array([whole.words.index(word) for word in part.words])
        assert np.array_equal(place[part.table], whole.table[np.ix_(place, place)])
        assert [word for word in whole.words if even(tuple(map(int, word)))] == list(part.words)


@pytest.mark.parametrize(
    "name", [*GroupMultiplication.SHELF, "q12_aba_f0.25_v0.125_s7_together_lm", "c97_f0.3_s0", "a6_conj_f0.9_s12"]
)
def test_a_name_gives_the_fields_and_the_fields_the_name(name: str) -> None:
    config = GroupConfig(name=name)
    options = {field: value for field, value in config.options().items() if field not in ("cayley_table", "elements")}
    assert GroupConfig(**options).name == config.name == name
    assert task_config("groups", group="S5", operation="aba").name == "s5_aba_f0.5_s0"


def test_a_given_table_gives_the_rows_of_the_group_it_is_of(tmp_path: Path) -> None:
    table = named_group("a5").table
    for operation in ("compose", "conjugate", "aba"):
        fields: dict[str, Any] = {"operation": operation, "cache_dir": str(tmp_path), "view": "lm"}
        given = load_task("groups", cayley_table=table, elements=list(named_group("a5").words), **fields)
        named = load_task("groups", group="a5", **fields)
        assert {split: checksum(rows) for split, rows in given.items()} == {
            split: checksum(rows) for split, rows in named.items()
        }


def test_the_words_of_a_given_table_are_numbered_where_they_have_no_names(tmp_path: Path) -> None:
    rows = load_task("groups", cayley_table=KLEIN, view="lm", cache_dir=str(tmp_path))
    found = {row["prompt"] + row["completion"] for row in itertools.chain(*rows.values())}
    assert found == {f"g{x} * g{y} = g{KLEIN[x][y]}" for x in range(4) for y in range(4)}


def test_a_given_tables_name_is_that_of_its_content(tmp_path: Path) -> None:
    name = GroupConfig(cayley_table=KLEIN).name
    path = tmp_path / "klein.json"
    path.write_text(json.dumps(KLEIN), encoding="utf-8")
    cyclic = [[(x + y) % 4 for y in range(4)] for x in range(4)]
    array = np.array(KLEIN)
    config = GroupConfig(cayley_table=array)
    assert name == config.name == GroupConfig(cayley_table=str(path)).name
    assert name == GroupConfig(cayley_table=KLEIN, elements=["g0", "g1", "g2", "g3"]).name
    assert name.startswith("table4-") and name.endswith("_f0.5_s0")
    assert len({name, GroupConfig(cayley_table=cyclic).name, GroupConfig(cayley_table=KLEIN, elements=list("eabc")).name}) == 3
    array[1, 1] = 3  # the configuration has a table of its own
    assert config.cayley_table.tolist() == KLEIN
    assert GroupConfig(name=name, cayley_table=KLEIN).name == name
    assert json.loads(json.dumps(config.options()))["cayley_table"] == KLEIN
    first = load_task("groups", cayley_table=KLEIN, cache_dir=str(tmp_path))
    path.unlink()
    again = load_task("groups", name, cayley_table=KLEIN, cache_dir=str(tmp_path))
    assert checksum(first["test"]) == checksum(again["test"])
    assert task_builder("groups", name, cayley_table=KLEIN, cache_dir=str(tmp_path)).cache_dir.count(name) == 1


@pytest.mark.parametrize("fields", [{"group": "s6"}, {"group": "d12", "view": "lm"}, {"cayley_table": KLEIN, "view": "lm"}])
def test_a_stream_has_the_rows_of_the_cache(tmp_path: Path, fields: dict[str, Any]) -> None:
    cached = load_task("groups", cache_dir=str(tmp_path), validation_fraction=0.2, **fields)
    streamed = load_task("groups", cache_dir=str(tmp_path / "other"), validation_fraction=0.2, streaming=True, **fields)
    assert list(cached) == list(streamed) == ["train", "validation", "test"]
    for split, rows in cached.items():
        assert checksum(rows) == checksum(streamed[split])
    assert not (tmp_path / "other").exists() or not any((tmp_path / "other").rglob("*.arrow"))


def test_both_orders_of_a_pair_stay_together_if_asked(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"group": "s4", "validation_fraction": 0.1, "cache_dir": str(tmp_path)}
    split, together = load_task("groups", **fields), load_task("groups", commutative="together", **fields)
    assert leakage(together) == {"ordered": 0, "commuted": 0}
    assert leakage(split)["ordered"] == 0 and leakage(split)["commuted"] > 50
    assert {name: len(rows) for name, rows in split.items()} == {name: len(rows) for name, rows in together.items()}


@pytest.mark.parametrize(
    "fields", [{"group": "s4"}, {"group": "q8", "operation": "aba"}, {"cayley_table": KLEIN, "elements": list("eabc")}]
)
def test_texts_come_back_from_the_tokenizer_and_elements_have_their_numbers_as_tokens(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    tokenizer = task_tokenizer("groups", view="lm", **fields)
    rows = load_task("groups", view="lm", cache_dir=str(tmp_path), **fields)["train"][:]
    texts = [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
    encoded = encode(rows, tokenizer)
    for ids, x, y, text in zip(encoded["input_ids"], rows["x"], rows["y"], texts, strict=True):
        assert (ids[0], ids[2]) == (x, y)
        assert tokenizer.decode(ids[:-1]) == text
        assert ids[-1] == tokenizer.eos_token_id
