"""Operand pairs and digits in plain Python, for the tests of digit arithmetic."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np

SMALL: dict[str, Any] = {"digits": 2, "train_size": 200, "validation_size": 50, "test_size": 100}


def as_tuples(rows: np.ndarray) -> list[tuple[int, int]]:
    return [(a, b) for a, b in rows.tolist()]


def longer(a: int, b: int) -> int:
    """Digits of the longer operand."""
    return max(len(str(a)), len(str(b)))


def edges(width: int) -> tuple[list[int], list[int]]:
    """Operands where carries run through, signs turn and zeros lead."""
    most = 10**width - 1
    single = [0, 1, 9, 10 ** (width - 1), most, most - 1, 10 ** (width - 1) - 1, most // 9 * 5]
    draw = random.Random(width)
    single += [draw.randrange(10 ** draw.randint(1, width)) for _ in range(12)]
    pairs = list(itertools.product(single, repeat=2))
    return [min(a, most) for a, _ in pairs], [min(b, most) for _, b in pairs]


def as_digits(numbers: list[int], width: int) -> np.ndarray:
    return np.array([[int(character) for character in f"{number:0{width}d}"] for number in numbers], dtype=np.uint8)
