"""Schoolbook arithmetic on arrays of decimal digits, for all rows at once. Numbers may exceed 64 bits.

In here: sum, difference and product with their carries and borrows, and conversion from and to whole numbers. A number is a row
of `(n, width)` uint8 digits, most significant first. Loops run over positions, never over rows. Not in here: text (`text.py`).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

# A number of more digits may not fit int64.
INT64_DIGITS = 18


def digits_of(numbers: np.ndarray, width: int) -> np.ndarray:
    """Digits `(n, width)` of whole numbers `(n,)` from 0 to `10**width - 1`.

    >>> digits_of(np.array([7, 120]), 3).tolist()
    [[0, 0, 7], [1, 2, 0]]
    """
    digits = np.empty((len(numbers), width), dtype=np.uint8)
    for place in reversed(range(width)):
        rest = numbers // 10
        digits[:, place] = numbers - 10 * rest
        numbers = rest
    return digits


def numbers_of(digits: np.ndarray, decimal: bool = False) -> pa.Array:
    """Digits `(n, width)` as Arrow integers: int64, or `decimal128(38, 0)` with `decimal` (any width).

    >>> numbers_of(np.array([[0, 0, 7], [1, 2, 0]])).to_pylist()
    [7, 120]
    >>> numbers_of(np.full((1, 20), 9), decimal=True)[0].as_py()
    Decimal('99999999999999999999')
    """
    if decimal:
        width = digits.shape[1]
        text = np.ascontiguousarray(digits + ord("0"), dtype=np.uint8)
        offsets = np.arange(len(digits) + 1, dtype=np.int32) * np.int32(width)
        return pa.StringArray.from_buffers(len(digits), pa.py_buffer(offsets), pa.py_buffer(text)).cast(pa.decimal128(38, 0))
    numbers = np.zeros(len(digits), dtype=np.int64)
    for place in digits.T:
        numbers = 10 * numbers + place
    return pa.array(numbers)


def less(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether a < b, `(n,)` bool, for digits `(n, width)` of each.

    >>> less(np.array([[1, 2], [3, 0], [3, 0]]), np.array([[1, 3], [2, 9], [3, 0]])).tolist()
    [True, False, False]
    """
    smaller = np.zeros(len(a), dtype=bool)
    for x, y in zip(a.T[::-1], b.T[::-1], strict=True):
        smaller = (x < y) | ((x == y) & smaller)
    return smaller


def add(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of digits `(n, width)`.

    Returns:
        Digits of the sum, one position wider, and the carries `(n, width + 1)`. Carry i + 1 goes into position i of the
            operands, carry i comes out of it.

    Example:
        >>> total, carries = add(np.array([[3, 4, 5]]), np.array([[0, 6, 6]]))
        >>> total.tolist(), carries.tolist()
        ([[0, 4, 1, 1]], [[0, 1, 1, 0]])
    """
    total, carries = _wider(a), _wider(a)
    for place in reversed(range(a.shape[1])):
        column = a[:, place] + b[:, place] + carries[:, place + 1]
        carries[:, place] = column >= 10
        total[:, place + 1] = column - 10 * carries[:, place]
    total[:, 0] = carries[:, 0]
    return total, carries


def subtract(larger: np.ndarray, smaller: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of digits `(n, width)`. No row of `smaller` may exceed its row of `larger`.

    Returns:
        Digits of the difference `(n, width)`, and the borrows `(n, width + 1)`, numbered like the carries of `add`.

    Example:
        >>> difference, borrows = subtract(np.array([[3, 4, 5]]), np.array([[0, 6, 6]]))
        >>> difference.tolist(), borrows.tolist()
        ([[2, 7, 9]], [[0, 1, 1, 0]])
    """
    difference, borrows = np.empty(larger.shape, dtype=np.uint8), _wider(larger)
    for place in reversed(range(larger.shape[1])):
        taken = smaller[:, place] + borrows[:, place + 1]
        borrows[:, place] = larger[:, place] < taken
        difference[:, place] = larger[:, place] + 10 * borrows[:, place] - taken
    return difference, borrows


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of digits `(n, width)` and `(n, other)`: digits `(n, width + other)`.

    >>> multiply(np.array([[1, 2]]), np.array([[3, 4, 5]])).tolist()
    [[0, 4, 1, 4, 0]]
    """
    width, other = a.shape[1], b.shape[1]
    # At most 20 products of two digits are added in one column: 1,620, or 1,800 with the carry.
    columns, wide = np.zeros((len(a), width + other), dtype=np.int16), a.astype(np.int16)
    for place in range(other):
        columns[:, place + 1 : place + 1 + width] += wide * b[:, place : place + 1]
    product = np.empty(columns.shape, dtype=np.uint8)
    carry = np.zeros(len(a), dtype=np.int16)
    for place in reversed(range(width + other)):
        column = columns[:, place] + carry
        carry = column // 10
        product[:, place] = column - 10 * carry
    return product


def _wider(digits: np.ndarray) -> np.ndarray:
    return np.zeros((len(digits), digits.shape[1] + 1), dtype=np.uint8)
