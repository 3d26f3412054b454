"""Pseudo-random numbers that need no memory: a keyed hash of a row number.

The hash of one row needs no other row. Labels and coin flips can be computed in any order and in any process.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15


def keyed_hash(index: np.ndarray, key: int) -> np.ndarray:
    """A well-mixed 64-bit number for each index: the finaliser of SplitMix64 (Steele et al. 2014), twice, with a key between.

    Args:
        index: `(n,)` integers of at least 0.
        key: any integer of at least 0; different keys give unrelated numbers.

    Returns:
        `(n,)` uint64.

    Example:
        >>> keyed_hash(np.arange(3), key=0) % np.uint64(10)
        array([9, 0, 1], dtype=uint64)
    """
    mask = 2**64 - 1
    mixed = _mix(index.astype(np.uint64) + np.uint64(_GOLDEN))
    return _mix(mixed ^ np.uint64((key * 0xD1342543DE82EF95 + _GOLDEN) & mask))


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
