r"""The draw of operand pairs in memory: an exact sample without repetition, for up to a million rows of up to nine digits.

In here: `draw_pairs`, and the fields of a configuration that a draw depends on. Not in here: larger draws (`stream.py`).

What is drawn
-------------
Operands are :math:`0 \le a, b < H = 10^{digits}`. A *stratum* is a set of pairs with
:math:`L \le \max(a, b) < H`; it holds :math:`N = H^2 - L^2` ordered pairs, of which :math:`D = H - L` are diagonal
(:math:`a = b`). ``sampling="uniform"`` is one stratum, :math:`L = 0`. ``sampling="balanced"`` is one stratum per digit
count of the longer operand, :math:`L = 10^{c-1}, H = 10^c` (and :math:`L = 0` for :math:`c = 1`). The rows are spread evenly
over the digit counts. A count with fewer pairs than its share gives them all. Each split takes its proportional share of every
count (to within two rows). Below, a stratum gives :math:`m` rows in all, :math:`m_s` of them to split :math:`s`.

``commutative="split"``: the :math:`m` rows are a uniform sample of the ordered pairs without replacement.

``commutative="together"``: (a, b) and (b, a) never lie in two splits.

- The number of diagonal rows is :math:`mD/N`, rounded at random to a whole number so that its mean is exact. The diagonal
  pairs, and the unordered pairs :math:`\{a, b\}`, are uniform samples without replacement.
- While :math:`m` is below about :math:`N/2`, each drawn unordered pair gives one row, and a fair coin decides the order. A
  split is a random part of the rows. **Every ordered pair is in split s with the same probability** :math:`m_s / N`. The only
  difference from a simple random sample: the mirror of a row is never drawn.
- Above that, every unordered pair gives a row, and a uniform sample of the pairs also gives the mirror. Every ordered pair is
  still drawn with the same probability :math:`m / N`. A pair with its mirror goes to one split; the other rows are dealt two at
  a time, and each split of odd size gets one extra row, so that sizes are exact. Within a stratum, the expected number of rows
  of one kind in one split is therefore proportional to :math:`m_s` up to one row.

All draws come from one PCG64 stream through `Generator.integers` and stable sorts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from hf_radial.tasks.splits import random_generator, random_order

MOST_ROWS_IN_MEMORY = 1_000_000
# Pairs are numbered up to 10**18, which fits int64.
MOST_DIGITS_IN_MEMORY = 9


class DrawnFields(Protocol):
    """The fields of a `DigitsConfig` that decide which pairs are drawn. No other field does."""

    name: str
    seed: int
    digits: int
    sampling: str
    commutative: str

    @property
    def sizes(self) -> dict[str, int]: ...

    @property
    def all_sizes(self) -> dict[str, int]: ...

    def digits_of_split(self, split: str) -> int: ...


def in_memory(config: DrawnFields) -> bool:
    """Whether train, validation and test are drawn here. If not, they are drawn row by row (`stream.py`)."""
    return config.digits <= MOST_DIGITS_IN_MEMORY and sum(config.sizes.values()) <= MOST_ROWS_IN_MEMORY


def draw_pairs(config: DrawnFields) -> dict[str, np.ndarray]:
    """Draw the operand pairs of every split, by the distribution in this file's docstring. Memory is `O(rows)`.

    Returns:
        split name -> `(rows, 2)` int64, columns a and b, in random order. Splits of size 0, and splits of longer operands, are
            left out; the latter are never drawn in memory.

    Raises:
        ValueError: `in_memory` is False for the configuration.

    Example:
        >>> from hf_radial.tasks.digits import DigitsConfig
        >>> pairs = draw_pairs(DigitsConfig(digits=9, train_size=5, validation_size=0, test_size=2))
        >>> {split: rows.shape for split, rows in pairs.items()}
        {'train': (5, 2), 'test': (2, 2)}
    """
    if not in_memory(config):
        raise ValueError(
            f"{config.name} has more than {MOST_ROWS_IN_MEMORY:,} rows or {MOST_DIGITS_IN_MEMORY} digits and is not "
            "drawn in memory; read it with load_task."
        )
    rng, sizes_of_splits = random_generator(config.seed), tuple(config.sizes.values())
    if config.sampling == "uniform":
        bounds = [(0, 10**config.digits)]
    else:
        bounds = [(10 ** (count - 1) if count > 1 else 0, 10**count) for count in range(1, config.digits + 1)]
    rows_of_strata = even_shares(sum(sizes_of_splits), [high**2 - low**2 for low, high in bounds])
    draw = _draw_together if config.commutative == "together" else _draw_split
    strata = [
        draw(rng, low, high, sizes)
        for (low, high), sizes in zip(bounds, proportional_table(rows_of_strata, sizes_of_splits), strict=True)
    ]
    pairs = {}
    for split, parts in zip(config.sizes, zip(*strata, strict=True), strict=True):
        rows = np.concatenate(parts)
        if len(rows):
            # So far, strata are one after the other, and mirrors side by side.
            pairs[split] = rows[random_order(rng, len(rows))]
    return pairs


def _draw_split(rng: np.random.Generator, low: int, high: int, sizes: list[int]) -> list[np.ndarray]:
    """Rows `(size, 2)` for each split: a uniform sample of the ordered pairs with `low <= max(a, b) < high`."""
    return _cut(_ordered_pair(_distinct(rng, low**2, high**2, sum(sizes))), sizes)


def _draw_together(rng: np.random.Generator, low: int, high: int, sizes: list[int]) -> list[np.ndarray]:
    """Rows `(size, 2)` for each split, with (a, b) and (b, a) in the same split. Distribution: this file's docstring."""
    rows, ordered, diagonals = sum(sizes), high**2 - low**2, high - low
    unordered = (ordered - diagonals) // 2
    # m D / N, rounded up with a probability equal to its fraction: the mean is exact, in whole numbers.
    diagonal_rows = (rows * diagonals + int(rng.integers(0, ordered))) // ordered
    other_rows = rows - diagonal_rows

    equal = np.repeat(_distinct(rng, low, high, diagonal_rows)[:, None], 2, axis=1)
    first, end = low * (low - 1) // 2, high * (high - 1) // 2
    other = _unordered_pair(_distinct(rng, first, end, min(other_rows, unordered)))
    coin = rng.integers(0, 2, size=len(other)) == 1
    other[coin] = other[coin, ::-1]

    # Number of unordered pairs (already in random order) that must also give their mirror.
    doubled = max(0, other_rows - unordered)
    single = np.concatenate([equal, other[doubled:]])
    single = single[random_order(rng, len(single))]
    if not doubled:
        return _cut(single, sizes)
    # Rows are dealt in packets of two: a pair with its mirror, or two rows without. First, each split of odd size gets one
    # single row. There are enough of them: at least D - 2 >= 8 rows have no mirror among the rows.
    odd = [size % 2 for size in sizes]
    spare, paired = single[: sum(odd)], single[sum(odd) :]
    packets = np.concatenate([paired.reshape(-1, 2, 2), np.stack([other[:doubled], other[:doubled, ::-1]], axis=1)])
    packets = packets[random_order(rng, len(packets))]
    dealt = _cut(packets, [size // 2 for size in sizes])
    return [np.concatenate([part.reshape(-1, 2), extra]) for part, extra in zip(dealt, _cut(spare, odd), strict=True)]


def _ordered_pair(index: np.ndarray) -> np.ndarray:
    """The ordered pair `(n, 2)` of each index. Pairs with max(a, b) = m have the numbers m**2 to m**2 + 2m."""
    shell = _floor_root(index, np.sqrt(index), lambda m: m * m)
    offset = index - shell * shell
    return np.stack([np.where(offset <= shell, shell, offset - shell - 1), np.where(offset <= shell, offset, shell)], axis=1)


def _unordered_pair(index: np.ndarray) -> np.ndarray:
    """The pair `(n, 2)` with a > b of each index. Pairs with larger operand a have the numbers a(a-1)/2 to a(a+1)/2 - 1."""
    a = _floor_root(index, (1 + np.sqrt(1 + 8 * index)) / 2, lambda m: m * (m - 1) // 2)
    return np.stack([a, index - a * (a - 1) // 2], axis=1)


def _floor_root(index: np.ndarray, guess: np.ndarray, start: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Largest m with `start(m) <= index`, from a float `guess` that is right or one too high.

    Above 2**53 the float of an index may be larger than the index. The guess is never too low: it grows with the index, and at
    each `start(m)` it is the root of a perfect square below 2**63, which is exact.
    """
    root = guess.astype(np.int64)
    root -= start(root) > index
    return root


def _distinct(rng: np.random.Generator, low: int, high: int, count: int) -> np.ndarray:
    """`count` different integers of `[low, high)` as int64: a uniform sample in random order."""
    if high - low <= 4 * count:
        return low + random_order(rng, high - low)[:count]
    # The first `count` different values of an independent sequence are such a sample. The range is never listed.
    drawn = rng.integers(low, high, size=count)
    while True:
        first = np.unique(drawn, return_index=True)[1]
        if len(first) >= count:
            return drawn[np.sort(first)[:count]]
        drawn = np.concatenate([drawn, rng.integers(low, high, size=count)])


def _cut(rows: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Consecutive parts of `rows`, of the given sizes."""
    return np.split(rows, np.cumsum(sizes)[:-1])


def even_shares(rows: int, capacities: list[int]) -> list[int]:
    """Spread `rows` over strata of the given ascending `capacities`, as evenly as they allow.

    Example:
        >>> even_shares(1000, [100, 9900, 990000])
        [100, 450, 450]
    """
    shares: list[int] = []
    for index, capacity in enumerate(capacities):
        shares.append(min(capacity, (rows - sum(shares)) // (len(capacities) - index)))
    return shares


def proportional_table(shares: list[int], sizes: tuple[int, ...]) -> list[list[int]]:
    """Table of rows: row c splits `shares[c]` in proportion to `sizes` (rounded), and column s sums to exactly `sizes[s]`.

    Example:
        >>> proportional_table([100, 450, 450], (500, 200, 300))
        [[50, 20, 30], [225, 90, 135], [225, 90, 135]]
    """
    train, validation, _ = sizes
    from_train = _shares_so_far(shares, train)
    rest = [share - taken for share, taken in zip(shares, from_train, strict=True)]
    from_validation = _shares_so_far(rest, validation)
    return [[taken, held, left - held] for taken, held, left in zip(from_train, from_validation, rest, strict=True)]


def _shares_so_far(shares: list[int], size: int) -> list[int]:
    """`shares` scaled to sum to `size`. Rounding the running sum keeps the total exact and each part within one."""
    total, before, seen, scaled = sum(shares), 0, 0, []
    for share in shares:
        seen += share
        upto = (2 * seen * size + total) // (2 * total)
        scaled.append(upto - before)
        before = upto
    return scaled
