"""Arithmetic on digits against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from digit_pairs import as_digits, edges

from hf_radial.tasks.digits.arithmetic import add, digits_of, less, multiply, numbers_of, subtract


@pytest.mark.parametrize("width", [1, 2, 9, 18, 20])
def test_arithmetic_on_digits_is_arithmetic_on_integers(width: int) -> None:
    a, b = edges(width)
    x, y = as_digits(a, width), as_digits(b, width)

    def whole(digits: np.ndarray) -> list[int]:
        assert digits.dtype == np.uint8 and digits.max() <= 9
        return [int("".join(map(str, row))) for row in digits.tolist()]

    total, carries = add(x, y)
    assert whole(total) == [p + q for p, q in zip(a, b, strict=True)]
    larger, smaller = (list(map(pick, a, b)) for pick in (max, min))
    difference, borrows = subtract(as_digits(larger, width), as_digits(smaller, width))
    assert whole(difference) == [p - q for p, q in zip(larger, smaller, strict=True)]
    for place in range(width + 1):  # a carry out of the lowest positions is what no longer fits them
        low = 10 ** (width - place)
        assert carries[:, place].tolist() == [(p % low + q % low) // low for p, q in zip(a, b, strict=True)]
        assert borrows[:, place].tolist() == [int(p % low < q % low) for p, q in zip(larger, smaller, strict=True)]
    assert whole(multiply(x, y)) == [p * q for p, q in zip(a, b, strict=True)]
    assert less(x, y).tolist() == [p < q for p, q in zip(a, b, strict=True)]
    assert [int(number) for number in numbers_of(x, decimal=True).to_pylist()] == a
    if width <= 18:
        assert numbers_of(x).to_pylist() == a
        assert (digits_of(np.array(a), width) == x).all()
