"""The draw without memory: a bijection on every small case, uniform by chi-square, and the same rows in any order."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_radial.tasks.digits import DigitsConfig, stream
from hf_radial.tasks.digits.stream import Modulus, Stratum, permute, row_order, strata, streamed_pairs

KEYS = (11, 22, 33, 44, 55, 66, 77, 88)


def numbers(digits: np.ndarray) -> np.ndarray:
    """Digits `(n, width)` of up to 18 places as `(n,)` int64."""
    return digits.astype(np.int64) @ 10 ** np.arange(digits.shape[1] - 1, -1, -1)


def chi_square(seen: np.ndarray, expected: float) -> float:
    """In standard deviations above its mean, with a degree of freedom less than there are cells."""
    freedom = seen.size - 1
    return float((((seen - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize(
    "moduli",
    [((1, 7), (1, 12)), ((3, 5), (4, 3)), ((10, 1), (5, 1)), ((2, 1), (1, 1)), ((6, 10), (99, 10))],
    ids=str,
)
def test_the_network_is_a_bijection_for_any_moduli_and_keys(moduli: tuple[tuple[int, int], tuple[int, int]]) -> None:
    one, two = (Modulus(*modulus) for modulus in moduli)
    x, y = (part.ravel() for part in np.meshgrid(np.arange(one.value), np.arange(two.value)))
    for keys in (KEYS, KEYS[:3], (5,), (0,) * 8):
        p, q = permute(np.stack(np.divmod(x, one.low)), np.stack(np.divmod(y, two.low)), (one, two), keys)
        for limbs, modulus in ((p, one), (q, two)):
            assert limbs.min() >= 0 and (limbs.max(axis=1) < [modulus.high, modulus.low]).all()
        assert len(set(zip(*p.tolist(), *q.tolist(), strict=True))) == one.value * two.value


def test_sums_of_residues_in_two_limbs_are_sums_of_integers() -> None:
    rng = np.random.default_rng(0)
    for modulus in (Modulus(99 * 10**9, 10**10), Modulus(5 * 10**9, 10**10), Modulus(7, 3), Modulus(1, 10**9)):
        x, y = (np.stack([rng.integers(0, modulus.high, 500), rng.integers(0, modulus.low, 500)]) for _ in range(2))
        x[:, :4], y[:, :2] = np.array([[modulus.high - 1], [modulus.low - 1]]), np.array([[0], [1 % modulus.low]])

        def whole(limbs: np.ndarray, low: int = modulus.low) -> list[int]:
            return [high * low + rest for high, rest in limbs.T.tolist()]

        expected = [(p + q) % modulus.value for p, q in zip(whole(x), whole(y), strict=True)]
        assert whole(modulus.add(x, y)) == expected


@pytest.mark.parametrize("limb", [10, 1], ids=["limbs as they are", "low limbs of one digit"])
@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_a_stratum_holds_each_of_its_pairs_once(digits: int, exactly: bool, limb: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LIMB", limb)
    high, low = 10**digits, 10 ** (digits - 1) if exactly and digits > 1 else 0
    a, b = (part.ravel() for part in np.indices((high, high)))
    inside = np.maximum(a, b) >= low
    drawn = Stratum(digits, exactly, together=False, seed=3)
    assert drawn.rows == inside.sum()
    x, y = (numbers(part) for part in drawn.pairs(np.arange(drawn.rows)))
    assert (np.sort(x * high + y) == np.flatnonzero(inside)).all()

    drawn = Stratum(digits, exactly, together=True, seed=3)
    assert drawn.rows == inside.sum() // 2
    x, y = (numbers(part) for part in drawn.pairs(np.arange(drawn.rows)))
    unordered = np.sort(np.minimum(x, y) * high + np.maximum(x, y))
    # All pairs of different operands, and half of those of equal ones: one of 2k and 2k + 1.
    assert (unordered[unordered % (high + 1) != 0] == np.flatnonzero(inside & (a < b))).all()
    assert (unordered[unordered % (high + 1) == 0] // (high + 1) // 2 == np.arange(low // 2, high // 2)).all()
    # In either order, by a coin.
    assert abs((x > y)[x != y].mean() - 0.5) < 4 * 0.5 / drawn.rows**0.5


@pytest.mark.parametrize(("digits", "exactly"), [(1, False), (2, True)])
@pytest.mark.parametrize("together", [True, False])
def test_every_ordered_pair_is_equally_likely_at_every_row_number(digits: int, exactly: bool, together: bool) -> None:
    draws, low, high = 40_000 if digits == 1 else 100_000, 10 if exactly else 0, 10**digits
    index = np.array([0, 1, 37 if digits == 1 else 3000])
    seen = np.zeros((3, high, high))
    for seed in range(draws // 20):  # 20 places a seed, far from each other, make the test fast
        stratum = Stratum(digits, exactly, together, seed)
        spread = (index[:, None] + np.arange(20) * (stratum.rows // 20)) % stratum.rows
        a, b = (numbers(part) for part in stratum.pairs(spread.ravel()))
        np.add.at(seen, (np.repeat(np.arange(3), 20), a, b), 1)
    inside = np.maximum(*np.indices((high, high))) >= low
    for counts in seen:
        assert counts[~inside].sum() == 0
        # Rows of one seed are different pairs, which makes the sum smaller, never larger.
        assert chi_square(counts[inside], draws / inside.sum()) < 5
    # Where a careless draw of unordered pairs goes wrong: the diagonal, by a factor of two.
    share = np.diag(seen.sum(axis=0)).sum() / (3 * draws)
    expected = (high - low) / inside.sum()
    assert abs(share / expected - 1) < 5 / (3 * draws * expected) ** 0.5


def test_the_order_of_rows_looks_random() -> None:
    """Given row 0, every other pair is as likely to be row j."""
    draws = 5000
    counts = np.zeros((3, 100))
    for seed in range(draws):
        a, b = (numbers(part) for part in Stratum(1, False, False, seed).pairs(np.array([0, 1, 5, 50])))
        code = 10 * a + b
        counts[np.arange(3), (code[1:] - code[0]) % 100] += 1
    assert counts[:, 0].sum() == 0
    for row in counts[:, 1:]:
        assert chi_square(row, draws / 99) < 5


@pytest.mark.parametrize("commutative", ["together", "split"])
def test_digits_of_large_operands_are_uniform_and_independent(commutative: str) -> None:
    config = DigitsConfig(digits=20, train_size=10**7, commutative=commutative)
    rows = 100_000
    a, b = streamed_pairs(config, "train", range(3_000_000, 3_000_000 + rows))
    worst = 0.0
    columns = np.concatenate([a, b], axis=1).astype(np.int64)
    for place in range(40):
        worst = max(worst, chi_square(np.bincount(columns[:, place], minlength=10), rows / 10))
    for place, other in itertools.combinations(range(40), 2):
        joint = np.bincount(10 * columns[:, place] + columns[:, other], minlength=100)
        worst = max(worst, chi_square(joint, rows / 100))
    for place in range(40):  # a row and the next
        joint = np.bincount(10 * columns[:-1, place] + columns[1:, place], minlength=100)
        worst = max(worst, chi_square(joint, (rows - 1) / 100))
    assert worst < 6  # the largest of 860


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("digits", [12, 20])
def test_lengths_are_exact_and_leading_digits_as_likely_as_their_pairs(digits: int, together: bool) -> None:
    rows = 100_000
    a, b = Stratum(digits, True, together, seed=1).pairs(np.arange(rows))
    first = 10 * a[:, 0].astype(np.int64) + b[:, 0]
    seen = np.bincount(first, minlength=100)
    assert seen[0] == 0
    assert chi_square(seen[1:], rows / 99) < 5
    for place in range(1, digits):  # and what follows is uniform, whichever the leading digits are
        for half in (first < 50, first % 11 == 0):
            joint = np.bincount(10 * a[half, place].astype(np.int64) + b[half, place], minlength=100)
            assert chi_square(joint, half.sum() / 100) < 6


def test_rows_are_dealt_to_the_strata_by_a_permutation() -> None:
    for rows in (*range(1, 40), 9973):
        assert sorted(row_order(np.arange(rows), rows, KEYS).tolist()) == list(range(rows))
    seen = np.zeros((7, 7))
    for seed in range(3500):
        seen[np.arange(7), row_order(np.arange(7), 7, tuple(range(8 * seed, 8 * seed + 8)))] += 1
    assert chi_square(seen, 500) < 5


LARGE: list[dict[str, Any]] = [
    {"digits": 4, "train_size": 2_000_000, "test_size": 40_000},
    {"digits": 4, "train_size": 1_000_000, "sampling": "balanced", "commutative": "split", "longer_digits": 1},
    {"digits": 20, "train_size": 600_000, "sampling": "balanced"},
]


@pytest.mark.parametrize("fields", LARGE, ids=lambda fields: "-".join(map(str, fields.values())))
def test_no_pair_comes_twice_in_a_large_draw(fields: dict[str, Any]) -> None:
    config = DigitsConfig(**fields)
    limbs = []
    for split, size in config.all_sizes.items():
        a, b = streamed_pairs(config, split, range(size))
        assert len(a) == size
        # Up to 20 digits as two numbers each, in a fixed order where mirrors count as the same.
        padded = [np.pad(part, ((0, 0), (20 - part.shape[1], 0))) for part in (a, b)]
        parts = np.stack([numbers(part[:, place : place + 10]) for part in padded for place in (0, 10)], axis=1)
        mirrored = (parts[:, 0] < parts[:, 2]) | ((parts[:, 0] == parts[:, 2]) & (parts[:, 1] < parts[:, 3]))
        if config.commutative == "together":
            parts[mirrored] = parts[mirrored][:, [2, 3, 0, 1]]
        limbs.append(parts)
    rows = np.concatenate(limbs)
    rows = rows[np.lexsort(rows.T)]
    assert (rows[1:] != rows[:-1]).any(axis=1).all()


@pytest.mark.parametrize("commutative", ["together", "split"])
def test_balanced_rows_spread_evenly_over_digit_counts_in_every_split(commutative: str) -> None:
    config = DigitsConfig(
        digits=12, sampling="balanced", train_size=30_000, validation_size=5000, test_size=15_000, commutative=commutative
    )
    counts = {}
    for split, size in config.sizes.items():
        a, b = streamed_pairs(config, split, range(size))
        used = np.logical_or.accumulate((a > 0) | (b > 0), axis=1).sum(axis=1)
        length = np.maximum(used, 1)  # 0 + 0 has one digit
        counts[split] = np.bincount(length, minlength=13)[1:]
        # Shuffled: the strata do not lie one after the other.
        head = np.bincount(length[:1000], minlength=13)[1:]
        assert np.abs(head - counts[split] * 1000 / size).max() < 50
    totals = np.sum(list(counts.values()), axis=0)
    # One digit has 100 pairs only, and 50 without their mirrors; the other rows go to the eleven longer counts.
    short = 50 if commutative == "together" else 100
    assert totals[0] == short and totals.sum() == 50_000
    assert totals[1:].max() - totals[1:].min() <= 1
    for split, size in config.sizes.items():
        np.testing.assert_allclose(counts[split], totals * size / 50_000, atol=2)


@pytest.mark.parametrize("fields", LARGE, ids=lambda fields: "-".join(map(str, fields.values())))
def test_a_row_is_the_same_in_whatever_range_it_is_made(fields: dict[str, Any]) -> None:
    config = DigitsConfig(**fields)
    for split, size in config.all_sizes.items():
        start = size // 2
        a, b = streamed_pairs(config, split, range(start, start + 300))
        for rows in (range(start + 7, start + 8), range(start + 100, start + 300), range(start, start)):
            here = slice(rows.start - start, rows.stop - start)
            for part, whole in zip(streamed_pairs(config, split, rows), (a, b), strict=True):
                assert (part == whole[here]).all() and part.shape == whole[here].shape


def test_seeds_draw_other_rows() -> None:
    drawn = [
        streamed_pairs(DigitsConfig(digits=10, seed=seed), "test", range(50))[0].tobytes() for seed in (0, 1, 2**64, 2**64 + 1)
    ]
    assert len(set(drawn)) == 4


def test_everything_that_exists_can_be_asked_for() -> None:
    """The check of the sizes and the draw agree on how many rows there are."""
    for commutative, existing in (("together", 50 * 10**6), ("split", 10**8)):
        for sampling in ("uniform", "balanced"):
            fields: dict[str, Any] = {"digits": 4, "commutative": commutative, "sampling": sampling}
            config = DigitsConfig(train_size=existing - 3000, **fields)
            assert sum(stratum.rows for stratum in strata(config, "train")) == existing
            a, _ = streamed_pairs(config, "test", range(2000))
            assert a.shape == (2000, 4)
            with pytest.raises(ValueError, match=f"only {existing} different ones"):
                DigitsConfig(train_size=existing - 2999, **fields)


CHECKSUMS = {
    "add10_uniform_rev_pad_n500-1000-2000_together_s0": "5dbd5c3374c4285df7a9e0b3fe16aa93599a60a90d37d3a6aa16faf114c9a25c",
    "add20_balanced_rev_pad_n900-0-700_split_s7": "07f3a521a85582424a7585154007e1363a85172e5f8a45acb0a563916626dfa0",
    "add5_uniform_rev_pad_n2000000-0-700_split_s0_longer2x600": (
        "7dbc3d6594eb0e4821819b4688889b421b8b82b1effffb4beb53cd8fb30305bc"
    ),
}
PROGRAM = """
import hashlib, sys
from hf_radial.tasks.digits.stream import streamed_pairs
from hf_radial.tasks.digits import DigitsConfig
for name in sys.argv[1:]:
    config = DigitsConfig(name=name)
    parts = [streamed_pairs(config, split, range(500)) for split, size in config.all_sizes.items() if size]
    print(hashlib.sha256(b"".join(part.tobytes() for pair in parts for part in pair)).hexdigest())
"""


def test_rows_of_a_published_configuration_never_change() -> None:
    # In another process. A failure means other rows under the same name: raise `TaskBuilder.VERSION`, or find the cause.
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", PROGRAM, *CHECKSUMS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(CHECKSUMS.values())
