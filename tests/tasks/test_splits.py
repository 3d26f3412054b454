"""Splits: exact sizes, orbits kept together, equal chances; and the count of leaks, against sets."""

from __future__ import annotations

import itertools

import datasets
import numpy as np
import pytest

from hf_radial.tasks.load import load_task
from hf_radial.tasks.splits import deal, leakage, orbits_under_reordering

pytestmark = pytest.mark.quick


def pairs(p: int) -> np.ndarray:
    return np.array(list(itertools.product(range(p), repeat=2)))


@pytest.mark.parametrize("p", [2, 3, 5, 10])
@pytest.mark.parametrize("together", [False, True])
def test_every_row_is_dealt_once_and_sizes_are_exact(p, together):
    orbits = orbits_under_reordering(pairs(p)) if together else None
    for train, validation in itertools.product(range(1, p * p - 1), range(p * p)):
        test = p * p - train - validation
        if test < 1:
            continue
        try:
            parts = deal(p * p, [train, validation, test], seed=train, orbits=orbits)
        except ValueError:
            assert together  # one row cannot hold a pair and its mirror
            continue
        assert sorted(np.concatenate(parts).tolist()) == list(range(p * p))
        sizes = [len(part) for part in parts]
        if together:
            # One row is the most that can be missing: the smallest orbit that is left has two rows.
            assert abs(sizes[0] - train) <= 1 and abs(sizes[1] - validation) <= 1
            assert len({orbit for part in parts for orbit in set(orbits[part].tolist())}) == sum(
                len(set(orbits[part].tolist())) for part in parts
            )
        else:
            assert sizes == [train, validation, test]


def test_sizes_are_exact_under_together_where_they_are_not_tiny():
    for p, operands in ((23, 2), (97, 2), (11, 3)):
        rows = np.array(list(itertools.product(range(p), repeat=operands)))
        orbits = orbits_under_reordering(rows)
        for seed in range(5):
            train, validation = int(len(rows) * 0.37), int(len(rows) * 0.2)
            sizes = [train, validation, len(rows) - train - validation]
            assert [len(part) for part in deal(len(rows), sizes, seed, orbits)] == sizes


@pytest.mark.parametrize("together", [False, True])
def test_rows_have_the_same_chance_of_every_split(together):
    p, draws = 10, 4000
    orbits = orbits_under_reordering(pairs(p)) if together else None
    sizes, seen = [30, 20, 50], np.zeros((3, p * p))
    for seed in range(draws):
        for split, part in enumerate(deal(p * p, sizes, seed, orbits)):
            seen[split, part] += 1
    diagonal = np.arange(p) * (p + 1)
    for split, size in enumerate(sizes):
        expected = draws * size / (p * p)
        if together:
            # What fills the last place is a diagonal row, where one is needed: at most one row of a split, half the time.
            excess = seen[split, diagonal].sum() / draws - size / p
            assert abs(excess) < 1
            expected = (draws * size - seen[split, diagonal].sum()) / (p * p - p)
            seen[split, diagonal] = expected
        chi_square = ((seen[split] - expected) ** 2 / expected).sum()
        assert chi_square < (250 if together else 150)  # 99 degrees of freedom; about twice it where mirrors travel together


def test_rows_of_a_split_are_in_random_order():
    parts = deal(10_000, [5000, 5000], seed=0)
    for part in parts:
        assert abs(np.corrcoef(part, np.arange(5000))[0, 1]) < 0.05
        assert abs(np.corrcoef(part[1:], part[:-1])[0, 1]) < 0.05
    orbits = orbits_under_reordering(pairs(100))
    part = deal(10_000, [5000, 5000], seed=0, orbits=orbits)[0]
    assert abs(np.corrcoef(part, np.arange(5000))[0, 1]) < 0.05 and (np.diff(orbits[part]) == 0).sum() < 10


def test_a_seed_repeats_and_another_differs():
    assert [p.tolist() for p in deal(100, [50, 50], 3)] == [p.tolist() for p in deal(100, [50, 50], 3)]
    assert deal(100, [50, 50], 3)[0].tolist() != deal(100, [50, 50], 4)[0].tolist()


@pytest.mark.parametrize("operands", [2, 3])
@pytest.mark.parametrize("large", [False, True], ids=["int64", "decimal"])
def test_leakage_counts_as_sets_do(operands, large):
    from decimal import Decimal

    rng = np.random.default_rng(0)
    factor = 10**25 if large else 1
    sets = {
        name: {tuple(row) for row in rng.integers(0, 9, size=(60, operands)).tolist()} for name in ("train", "test", "extra")
    }
    kind = datasets.Value("decimal128(38, 0)" if large else "int64")
    splits = {}
    for name, rows in sets.items():
        columns = {
            f"x{i}": [Decimal(row[i] * factor) if large else row[i] for row in [*sorted(rows), min(rows)]]  # a row twice
            for i in range(operands)
        }
        splits[name] = datasets.Dataset.from_dict(columns, features=datasets.Features(dict.fromkeys(columns, kind)))
    ordered = commuted = 0
    earlier: set[tuple[int, ...]] = set()
    for rows in sets.values():
        ordered += len(earlier & rows)
        commuted += sum(any(other in earlier for other in set(itertools.permutations(row)) - {row}) for row in rows)
        earlier |= rows
    assert leakage(splits) == {"ordered": ordered, "commuted": commuted} and ordered and commuted


def test_leakage_wants_operands():
    with pytest.raises(ValueError, match=r"split 'train' needs the operands as columns .* but has \['text'\]"):
        leakage({"train": datasets.Dataset.from_dict({"text": ["a"]}), "test": datasets.Dataset.from_dict({"text": ["b"]})})


def test_leakage_of_a_stream_is_that_of_its_rows(tmp_path):
    fields = {"p": 23, "validation_fraction": 0.2}
    for task, more in (("modular", {}), ("modular", {"view": "lm"}), ("digits", {"digits": 20, "train_size": 50})):
        given = {**(fields if task == "modular" else {}), **more}
        cached = load_task(task, cache_dir=str(tmp_path), **given)
        assert leakage(load_task(task, streaming=True, **given)) == leakage(cached)


def test_leakage_keeps_negative_operands_apart():
    def rows(a, b):
        return datasets.Dataset.from_dict({"a": [a], "b": [b]})

    assert leakage({"train": rows(-1, 1), "test": rows(1, 0)}) == {"ordered": 0, "commuted": 0}
    assert leakage({"train": rows(-1, 1), "test": rows(1, -1)}) == {"ordered": 0, "commuted": 1}


def test_leakage_refuses_texts_of_many_lengths_as_operands():
    ragged = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3, 4, 5, 6]]})
    with pytest.raises(ValueError, match="split 'train' has input_ids of 2 lengths"):
        leakage({"train": ragged, "test": ragged})


def test_leakage_of_a_split_without_rows_is_none():
    rows = datasets.Dataset.from_dict({"input_ids": [[1, 2]]})
    assert leakage({"train": rows, "test": rows.select([])}) == {"ordered": 0, "commuted": 0}
