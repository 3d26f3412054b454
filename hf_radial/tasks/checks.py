"""Checks of a configuration's fields. Each returns the value, or raises a ValueError that names the argument and the fix."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# The limit of whole numbers without their own: as large as NumPy's seeds, and short enough for a configuration's name.
_LARGEST = 2**128 - 1


def shown(value: Any) -> str:
    """`value` as errors show it: its repr, cut to 200 characters.

    >>> shown("7"), len(shown("7" * 10_000))
    ("'7'", 200)
    """
    try:
        text = repr(value)
    except ValueError:  # Python does not write out integers of more than 4300 digits
        text = f"an enormous {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int in `[low, high]`, by default below 2**128.

    >>> whole_number("p", 97, 2)
    97
    >>> whole_number("p", 1.5, 2)
    Traceback (most recent call last):
    ...
    ValueError: p must be a whole number of at least 2, got 1.5.
    """
    limits = f"from {low} to {high}" if high is not None else f"of at least {low}"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    # True is an int in Python, but never meant as a number here.
    if number is None or isinstance(value, bool) or number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be a whole number {limits}, got {shown(value)}.")
    if number > _LARGEST:
        raise ValueError(f"{name} must be a whole number below 2**128, got {shown(value)}.")
    return number


def fraction(name: str, value: Any, zero: bool = False) -> float:
    """`value` as a float strictly between 0 and 1. With `zero`, 0 is allowed too.

    >>> fraction("train_fraction", 1.5)
    Traceback (most recent call last):
    ...
    ValueError: train_fraction must be a number between 0 and 1, both excluded, got 1.5.
    """
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not (0 < number < 1 or (zero and number == 0)):
        ends = "1, which is excluded" if zero else "1, both excluded"
        raise ValueError(f"{name} must be a number between 0 and {ends}, got {shown(value)}.")
    return abs(number)  # -0.0 is 0.0, in a name too


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """`value` if it is in `allowed`. Otherwise the error lists the most similar names first.

    >>> one_of("view", "clasification", ["classification", "lm"])
    Traceback (most recent call last):
    ...
    ValueError: view='clasification' is unknown; did you mean 'classification'? There are: classification, lm.
    """
    names = list(allowed)
    # An array is refused first: `in` has no single answer for it.
    if not isinstance(value, str) or value not in names:
        near = get_close_matches(value if isinstance(value, str) else shown(value), names, 3, 0.5)
        meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"{name}={shown(value)} is unknown{meant} There are: {', '.join(names)}.")
    return str(value)


def flag(name: str, value: Any) -> bool:
    """`value` if it is True or False. Words are refused: "no" and "false" from a command line are true in Python."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}.")
    return value
