"""Every draw in memory against Python's sets."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digit_pairs import SMALL, as_tuples, longer

from hf_radial.tasks.digits import DigitsConfig
from hf_radial.tasks.digits.draw import _distinct, _ordered_pair, _unordered_pair, draw_pairs, even_shares, proportional_table


def digest(pairs: dict[str, np.ndarray]) -> str:
    """Checksum of rows and their order."""
    return hashlib.sha256(b"".join(rows.tobytes() for rows in pairs.values())).hexdigest()


CONFIGS: list[dict[str, Any]] = [
    {
        "digits": digits,
        "sampling": sampling,
        "seed": seed,
        "train_size": n[0],
        "validation_size": n[1],
        "test_size": n[2],
    }
    for digits, sizes in {
        1: [(20, 8, 12), (50, 25, 25), (33, 33, 33), (97, 2, 1), (1, 0, 1), (80, 11, 9), (45, 0, 45), (30, 15, 1)],
        2: [(200, 50, 100), (6000, 2001, 1999), (3001, 1000, 999), (5001, 1, 4001)],
        3: [(500, 100, 200), (1, 1, 1)],
        9: [(500, 100, 200)],
    }.items()
    for n in sizes
    for sampling in ("uniform", "balanced")
    for seed in (0, 1)
]


@pytest.mark.parametrize("commutative", ["together", "split"])
def test_splits_have_their_sizes_and_share_no_pair(commutative: str) -> None:
    for fields in CONFIGS:
        config = DigitsConfig(commutative=commutative, **fields)
        pairs = draw_pairs(config)
        assert {split: len(rows) for split, rows in pairs.items()} == {s: n for s, n in config.sizes.items() if n}, fields
        ordered = {split: set(as_tuples(rows)) for split, rows in pairs.items()}
        assert all(len(ordered[split]) == len(rows) for split, rows in pairs.items()), f"duplicates: {fields}"
        assert all(0 <= x < 10**config.digits for rows in pairs.values() for x in rows.ravel().tolist()), fields
        for one, two in itertools.combinations(ordered.values(), 2):
            assert not one & two, fields
            if commutative == "together":
                assert not {(b, a) for a, b in one} & two, fields


def test_all_pairs_can_be_asked_for_and_all_come() -> None:
    every = set(itertools.product(range(10), range(10)))
    for sampling, commutative, seed in itertools.product(("uniform", "balanced"), ("together", "split"), range(50)):
        # Odd sizes: with whole groups, each of the two splits must get an odd number of the ten diagonal pairs.
        config = DigitsConfig(
            digits=1,
            sampling=sampling,
            commutative=commutative,
            seed=seed,
            train_size=80,
            validation_size=11,
            test_size=9,
        )
        pairs = draw_pairs(config)
        assert {pair for rows in pairs.values() for pair in as_tuples(rows)} == every


@pytest.mark.parametrize("commutative", ["together", "split"])
@pytest.mark.parametrize("sizes", [(20, 8, 12), (40, 16, 24)], ids=["40 of 100", "80 of 100"])
def test_every_ordered_pair_is_equally_likely_in_every_split(commutative: str, sizes: tuple[int, int, int]) -> None:
    draws = 3000
    seen = np.zeros((3, 10, 10))
    for seed in range(draws):
        train, validation, test = sizes
        config = DigitsConfig(
            digits=1, train_size=train, validation_size=validation, test_size=test, seed=seed, commutative=commutative
        )
        for split, rows in enumerate(draw_pairs(config).values()):
            seen[split, rows[:, 0], rows[:, 1]] += 1
    for split, size in enumerate(sizes):
        expected = draws * size / 100
        chi_square = ((seen[split] - expected) ** 2 / expected).sum()
        # 99 degrees of freedom, standard deviation 14; up to about 20 where mirrors travel together.
        assert chi_square < 200, (split, chi_square)
        # Diagonal pairs are where a careless draw by unordered pair goes wrong: by a factor of two.
        assert abs(np.diag(seen[split]).mean() / expected - 1) < 0.05
        assert abs(np.triu(seen[split], 1).sum() / np.tril(seen[split], -1).sum() - 1) < 0.05


def test_a_draw_of_less_than_half_holds_no_mirrors_under_together() -> None:
    few = draw_pairs(DigitsConfig(digits=2, train_size=2000, validation_size=900, test_size=2000))
    unordered = {tuple(sorted(pair)) for rows in few.values() for pair in as_tuples(rows)}
    assert len(unordered) == 4900
    # Above it mirrors are needed, and all 5,050 unordered pairs are used first (diagonal ones at their rate of 60%).
    many = draw_pairs(DigitsConfig(digits=2, train_size=3000, validation_size=1000, test_size=2000))
    unordered = {tuple(sorted(pair)) for rows in many.values() for pair in as_tuples(rows)}
    assert len(unordered) == 4950 + 60


def test_mirrors_may_part_under_split() -> None:
    pairs = draw_pairs(DigitsConfig(commutative="split", **SMALL))
    train, test = (set(as_tuples(pairs[split])) for split in ("train", "test"))
    assert {(b, a) for a, b in train} & test


@pytest.mark.parametrize("commutative", ["together", "split"])
def test_balanced_rows_spread_evenly_over_digit_counts_in_every_split(commutative: str) -> None:
    config = DigitsConfig(
        digits=4, sampling="balanced", train_size=3000, validation_size=500, test_size=1500, commutative=commutative
    )
    pairs = draw_pairs(config)
    counts = {
        split: [[longer(a, b) for a, b in as_tuples(rows)].count(c) for c in range(1, 5)] for split, rows in pairs.items()
    }
    totals = np.sum(list(counts.values()), axis=0)
    # One digit has 100 pairs only; the other 4,900 rows go to the three longer counts.
    assert totals.tolist() == [100, 1633, 1633, 1634]
    for split, size in config.sizes.items():
        np.testing.assert_allclose(counts[split], totals * size / 5000, atol=2)
    # Shuffled: the strata do not lie one after the other.
    head = [longer(a, b) for a, b in as_tuples(pairs["train"][:100])]
    assert len(set(head)) >= 3


def test_uniform_sampling_is_mostly_of_the_longest_operands() -> None:
    rows = draw_pairs(DigitsConfig(digits=3, train_size=10_000))["train"]
    share = np.mean([longer(a, b) == 3 for a, b in as_tuples(rows)])
    assert abs(share - 0.99) < 0.005


def test_shares_and_tables_against_their_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        capacities = np.sort(rng.integers(1, 60, size=rng.integers(1, 6))).tolist()
        rows = int(rng.integers(2, sum(capacities) + 1)) if sum(capacities) > 2 else 2
        if rows > sum(capacities):
            continue
        # Slow reference: hand out row by row to the emptiest count that has room.
        slow = [0] * len(capacities)
        for _ in range(rows):
            slow[min((n, i) for i, n in enumerate(slow) if n < capacities[i])[1]] += 1
        shares = even_shares(rows, capacities)
        assert sorted(shares) == sorted(slow) and sum(shares) == rows
        assert all(share <= capacity for share, capacity in zip(shares, capacities, strict=True))
        train = int(rng.integers(1, rows))
        validation = int(rng.integers(0, rows - train))
        sizes = (train, validation, rows - train - validation)
        table = np.array(proportional_table(shares, sizes))
        assert table.sum(axis=0).tolist() == list(sizes) and table.sum(axis=1).tolist() == shares
        assert table.min() >= 0
        assert np.abs(table - np.outer(shares, sizes) / rows).max() <= 2


def test_numbering_of_pairs_is_a_bijection() -> None:
    ordered = as_tuples(_ordered_pair(np.arange(30 * 30)))
    assert sorted(ordered) == sorted(itertools.product(range(30), range(30)))
    assert all(10**2 <= i < 20**2 for i, (a, b) in enumerate(ordered) if 10 <= max(a, b) < 20)
    unordered = as_tuples(_unordered_pair(np.arange(30 * 29 // 2)))
    assert sorted(unordered) == [(a, b) for a in range(30) for b in range(a)]


def test_numbering_of_pairs_is_exact_where_float64_is_not() -> None:
    for m in (10**9 - 1, 10**9 - 2, 94_906_267):
        index = np.array([m * m - 1, m * m, m * m + m, m * m + 2 * m])
        assert as_tuples(_ordered_pair(index)) == [(m - 2, m - 1), (m, 0), (m, m), (m - 1, m)]
        start = m * (m - 1) // 2
        assert as_tuples(_unordered_pair(np.array([start - 1, start, start + m - 1]))) == [
            (m - 1, m - 2),
            (m, 0),
            (m, m - 1),
        ]


@pytest.mark.parametrize("high", [70, 1000], ids=["dense", "sparse"])
def test_distinct_is_a_uniform_sample_in_random_order(high: int) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    draws = np.stack([_distinct(rng, 10, high, 30) for _ in range(4000)])
    assert draws.min() >= 10 and draws.max() < high
    assert all(len(set(draw)) == 30 for draw in draws.tolist())
    for values in (draws.ravel(), draws[:, 0], draws[:, -1]):
        seen, expected = np.bincount(values - 10, minlength=high - 10), len(values) / (high - 10)
        chi_square = ((seen - expected) ** 2 / expected).sum()
        freedom = high - 11
        assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_seeds_differ_and_a_configuration_repeats() -> None:
    for commutative, sampling in itertools.product(("together", "split"), ("uniform", "balanced")):
        fields: dict[str, Any] = {**SMALL, "commutative": commutative, "sampling": sampling}
        digests = [digest(draw_pairs(DigitsConfig(seed=seed, **fields))) for seed in (0, 0, 1, 2)]
        assert digests[0] == digests[1]
        assert len(set(digests)) == 3


CHECKSUMS: dict[str, tuple[dict[str, Any], str]] = {
    "add3_uniform_rev_pad_n500-1000-2000_together_s0": (
        {},
        "e3aaaa766510fe21de8a2e5028cdd8f49cb32ec0c1b18865222e4aa33e07e2da",
    ),
    "add9_balanced_rev_pad_n500-1000-2000_together_s0": (
        {"digits": 9, "sampling": "balanced"},
        "02b8a94916ab37a5e831f79f8b88113a4ed64d744b709d195e1dc2e8de42f084",
    ),
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_rows_of_a_published_configuration_never_change(name: str) -> None:
    # A failure here means other rows under the same name: raise `TaskBuilder.VERSION`, or find what changed in NumPy.
    fields, expected = CHECKSUMS[name]
    config = DigitsConfig(**fields)
    assert config.name == name
    assert digest(draw_pairs(config)) == expected


def test_another_process_draws_the_same_pairs() -> None:
    program = (
        "import hashlib\n"
        "from hf_radial.tasks.digits.draw import draw_pairs\n"
        "from hf_radial.tasks.digits import DigitsConfig\n"
        "pairs = draw_pairs(DigitsConfig())\n"
        "print(hashlib.sha256(b''.join(r.tobytes() for r in pairs.values())).hexdigest())"
    )
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == CHECKSUMS[DigitsConfig().name][1] + "\n"


def test_more_than_a_million_rows_or_nine_digits_are_not_drawn_in_memory() -> None:
    for fields in ({"digits": 4, "train_size": 10**6}, {"digits": 10}):
        with pytest.raises(ValueError, match="is not drawn in memory; read it with load_task"):
            draw_pairs(DigitsConfig(**fields))
