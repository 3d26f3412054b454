"""Distinct random rows: uniform samples without replacement, and the number of rows of each kind.

In here: `distinct_rows`, the shares of strata (lengths, depths) and of splits, and texts of words. Not in here: the meaning of
a row (each task's own file).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_radial.tasks.splits import random_order

# Limit of the symbols of all rows together. They are drawn in memory.
MOST_SYMBOLS = 2_000_000_000
# Symbols drawn at once. It bounds the random numbers (8 bytes each) to some MB.
SYMBOLS_PER_DRAW = 4_000_000


def distinct_rows(
    rng: np.random.Generator,
    count: int,
    existing: int,
    row_of_rank: Callable[[np.ndarray], np.ndarray],
    draw: Callable[[int], np.ndarray],
) -> np.ndarray:
    """`count` different rows out of `existing`: a uniform sample without replacement, in random order.

    If a large share of all rows is needed, all row numbers are put in random order. Otherwise rows are drawn independently, and
    the first `count` different ones are kept. That is also a uniform sample, and it never lists all rows.

    Args:
        rng: the generator that `draw` uses.
        count: at most `existing`.
        existing: how many rows there are.
        row_of_rank: maps row numbers `(n,)` below `existing` to rows `(n, width)`; called only if `existing <= 4 * count`.
        draw: `n` independent uniform rows `(n, width)`, integers of at least 0.

    Example:
        >>> rng = np.random.Generator(np.random.PCG64(0))
        >>> coins = lambda count: rng.integers(0, 2, size=(count, 2))
        >>> sorted(distinct_rows(rng, 4, 4, lambda rank: digits(rank, 2, 2), coins).tolist())
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    if existing <= 4 * count:
        return row_of_rank(random_order(rng, existing)[:count])
    kept = _first_of_each(draw(count))
    while len(kept) < count:
        # At least three draws in four are new, so few rounds are needed.
        kept = _first_of_each(np.concatenate([kept, draw(count - len(kept))]))
    return kept


def _first_of_each(rows: np.ndarray) -> np.ndarray:
    """`rows` without repetitions, in the same order."""
    base = max(2, int(rows.max(initial=0)) + 1)
    columns_at_once = 1
    # A key is below 2**31, as there are fewer rows than that. Key and columns together fit int64.
    while base ** (columns_at_once + 1) < 2**31:
        columns_at_once += 1
    key = np.zeros(len(rows), dtype=np.int64)
    first = np.arange(min(len(rows), 1))
    for start in range(0, rows.shape[1], columns_at_once):
        for column in rows.T[start : start + columns_at_once]:
            key = key * base + column
        _, first, key = np.unique(key, return_index=True, return_inverse=True)
        if len(first) == len(rows):  # all rows differ
            return rows
    return rows[np.sort(first)]


def digits(numbers: np.ndarray, base: int, width: int) -> np.ndarray:
    """Digits `(n, width)` int64 of `numbers` `(n,)` below `base**width`, most significant first.

    >>> digits(np.array([5]), base=2, width=4).tolist()
    [[0, 1, 0, 1]]
    """
    found, rest = np.empty((len(numbers), width), dtype=np.int64), numbers
    for place in reversed(range(width)):
        rest, found[:, place] = np.divmod(rest, base)
    return found


def draw_symbols(rng: np.random.Generator, count: int, width: int, base: int) -> np.ndarray:
    """Independent uniform symbols `(count, width)` below `base`, in the smallest unsigned type that holds them."""
    kind = np.uint8 if base <= 2**8 else np.uint16 if base <= 2**16 else np.uint32
    at_once = max(1, SYMBOLS_PER_DRAW // max(1, width))
    # Drawn as int64, then narrowed. The random stream therefore does not depend on the type.
    parts = [
        rng.integers(0, base, size=(min(at_once, count - start), width)).astype(kind) for start in range(0, count, at_once)
    ]
    return np.concatenate([np.empty((0, width), dtype=kind), *parts])


def check_memory(rows: int, width: int, advice: str) -> None:
    """Raise a ValueError for more symbols than can be drawn in memory."""
    if rows * width > MOST_SYMBOLS:
        raise ValueError(
            f"{rows:,} rows of {width:,} symbols are drawn in memory, but at most {MOST_SYMBOLS:,} symbols can be; {advice}."
        )


def even_shares(rows: int, capacities: Sequence[int]) -> list[int]:
    """Spread `rows` over strata as evenly as possible. A stratum with too few rows gives all it has.

    The remainder of the division goes to the larger strata, one row each.

    >>> even_shares(1000, [100, 9900, 990000])
    [100, 450, 450]
    """
    shares, remaining = [0] * len(capacities), rows
    for done, index in enumerate(sorted(range(len(capacities)), key=capacities.__getitem__)):
        shares[index] = min(capacities[index], remaining // (len(capacities) - done))
        remaining -= shares[index]
    return shares


def shares_of_splits(shares: Sequence[int], sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Rows of each stratum in each split: in proportion, rounded so that all sums are exact.

    Args:
        shares: rows of each stratum; they sum to the sum of `sizes`.
        sizes: rows of each split.

    Example:
        >>> shares_of_splits([100, 450, 450], {"train": 500, "validation": 200, "test": 300})
        {'train': [50, 225, 225], 'validation': [20, 90, 90], 'test': [30, 135, 135]}
    """
    dealt, remaining = {}, list(shares)
    for split, size in sizes.items():
        # The running sum is rounded. The total is then exact, and each part is within one row of its share of the rest. The
        # rest is itself within one row of its share of all rows. The last split takes the rest.
        total, upto = sum(remaining), accumulate(remaining)
        ends = [(2 * seen * size + total) // (2 * total) if total else 0 for seen in upto]
        dealt[split] = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        remaining = [all_of - taken for all_of, taken in zip(remaining, dealt[split], strict=True)]
    return dealt


def deal_strata(rng: np.random.Generator, strata: Sequence[np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Rows of each split, in random order. Each split takes its proportional share of every stratum.

    The rows of a stratum must be in random order, and all of one width.

    A split of size 0 is left out.
    """
    shares = shares_of_splits([len(rows) for rows in strata], sizes)
    ends = [np.cumsum(of_each)[:-1] for of_each in zip(*shares.values(), strict=True)]
    parts = zip(*[np.split(rows, cuts) for rows, cuts in zip(strata, ends, strict=True)], strict=True)
    dealt = {split: np.concatenate(part) for split, part in zip(shares, parts, strict=True) if sizes[split]}
    return {split: rows[random_order(rng, len(rows))] for split, rows in dealt.items()}


def join_words(words: pa.Array, ids: np.ndarray, lengths: np.ndarray, separator: str = " ") -> pa.Array:
    """Join words to texts. The first `lengths[0]` ids make the first text, and so on.

    >>> join_words(pa.array(["a", "b"]), np.array([0, 1, 1]), np.array([2, 1])).to_pylist()
    ['a b', 'b']
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Large offsets: the words of a shard may exceed 2 GB of text.
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), words.take(pa.array(ids)))
    return pc.binary_join(lists, separator)
