r"""How a problem of digit arithmetic is written: prompt, answer and scratchpad, for all rows at once.

In here: `spell` and `alphabet`. Not in here: the arithmetic (`arithmetic.py`) and the choice of the operands.

Answer
------
With operands of `width` digits, an answer is written as Python's ``f"{value}"``, or with `zero_pad` as
``f"{value:0{answer_width}d}"``. `answer_width` is `width + 1` for sums and differences and `2 * width` for products. A minus
sign comes before the zeros and replaces one of them: 12 - 345 is "-333" in both, and 45 - 57 with three digits is "-012". With
`reverse` the text is written backwards, least significant digit first and sign last: "333-", "210-". Operands are never
reversed; with `zero_pad` they are padded to `width`.

Scratchpad
----------
It follows Nye et al. 2021 (arXiv 2112.00114) and the "detailed scratchpad" of Lee et al. 2023 (arXiv 2307.03381). The
completion is the steps, each ended by ";", then "#" and the answer as above. Every step can be checked from the operands and
the step before it. Steps begin at the least significant position. With `zero_pad` they go through all `width` positions,
without it up to the first digit of the longer operand (of b, for products).

- sum: ``x+y+c=ds;`` for the digits x of a, y of b and the carry c: x + y + c = 10 d + s. The carry d is the next step's c. It
  always comes before the digit s. 128+367: ``8+7+0=15;2+6+1=09;1+3+0=04;#495`` (forwards, not padded).
- difference: first ``+;`` if a >= b or ``-;`` if a < b. Then ``x-y-c=ds;`` for the digits x of the larger operand, y of
  the smaller one and the borrow c: x - y - c = s - 10 d, and d is the next step's c.
  45-128: ``-;8-5-0=03;2-4-0=18;1-0-1=00;#-83``.
- product: ``*y=p,r;`` for the digit y of b at position j (from 0): p = a y 10^j, the partial product, and the running sum
  r = p + (r of the step before, or 0). p and r are written like the answer (reversed, padded).
  128*367: ``*7=896,896;*6=7680,8576;*3=38400,46976;#46976``.

Differences from these papers: no spaces or words, no <scratch> tags, and no copy of the remaining digits and of the answer so
far, which both papers have in every step. In differences, Lee et al. subtract b from a without exchanging them, and correct a
negative leading digit at the end; here the sign comes first. Their product steps also repeat a, and contain the unshifted
product, the power of ten and the running sum as an addition.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hf_radial.tasks.digits.arithmetic import add, less, multiply, subtract

SIGNS = {"add": "+", "sub": "-", "mul": "*"}
_ZERO, _MINUS = ord("0"), ord("-")
# Fills places of a row without a character.
_NOTHING = 0


def alphabet(operation: str, scratchpad: bool = False) -> str:
    """All characters of an operation's texts.

    >>> alphabet("add"), alphabet("sub", scratchpad=True)
    ('0123456789+=', '0123456789-=+;#')
    """
    steps = {"add": ";#", "sub": "+;#", "mul": ",;#"}[operation] if scratchpad else ""
    return "0123456789" + SIGNS[operation] + "=" + steps


def answer_width(operation: str, width: int) -> int:
    """Characters of a zero-padded answer to operands of `width` digits."""
    return 2 * width if operation == "mul" else width + 1


def most_characters(operation: str, width: int, scratchpad: bool) -> int:
    """Length of the longest prompt and completion together."""
    answer = answer_width(operation, width)
    steps = {"add": 9 * width, "sub": 2 + 9 * width, "mul": width * (2 * answer + 5)}[operation] + 1 if scratchpad else 0
    return 2 * width + 2 + steps + answer


def spell(
    operation: str, a: np.ndarray, b: np.ndarray, reverse: bool, zero_pad: bool, scratchpad: bool = False
) -> tuple[pa.StringArray, pa.StringArray]:
    """Write operands as `n` prompts and `n` completions, in the format of this file's docstring.

    Args:
        operation: "add", "sub" or "mul".
        a: digits of the first operands `(n, width)`, most significant first.
        b: digits of the second operands, of the same shape.
        reverse: write the answer with the least significant digit first.
        zero_pad: keep leading zeros.
        scratchpad: write the steps before the answer.

    Example:
        >>> a, b = np.array([[0, 1, 2]], dtype=np.uint8), np.array([[3, 4, 5]], dtype=np.uint8)
        >>> [text[0].as_py() for text in spell("add", a, b, reverse=True, zero_pad=True)]
        ['012+345=', '7530']
        >>> [text[0].as_py() for text in spell("sub", a, b, reverse=False, zero_pad=False)]
        ['12-345=', '-333']
        >>> [text[0].as_py() for text in spell("mul", a, b, reverse=False, zero_pad=False, scratchpad=True)]
        ['12*345=', '*5=60,60;*4=480,540;*3=3600,4140;#4140']
    """
    prompt = _strings([_characters(a, zero_pad), SIGNS[operation], _characters(b, zero_pad), "="])
    if operation == "mul":
        return prompt, _strings(_product(a, b, reverse, zero_pad, scratchpad))
    negative = less(a, b) if operation == "sub" else np.zeros(len(a), dtype=bool)
    if operation == "sub":
        a, b = np.where(negative[:, None], b, a), np.where(negative[:, None], a, b)
        result, carries = subtract(a, b)
        result = np.pad(result, ((0, 0), (1, 0)))
    else:
        result, carries = add(a, b)
    answer = _characters(result, zero_pad)
    # The first position of a difference is a padding zero or is not written, so the sign fits there.
    answer[negative, 0] = _MINUS
    parts: list[np.ndarray | str] = [_turned(answer, reverse)]
    if scratchpad:
        if operation == "sub":
            parts[:0] = [np.where(negative, _MINUS, ord("+")).astype(np.uint8)[:, None], ";"]
        parts[-1:-1] = [_steps(SIGNS[operation], a, b, carries, result, zero_pad), "#"]
    return prompt, _strings(parts)


def _steps(sign: str, a: np.ndarray, b: np.ndarray, carries: np.ndarray, result: np.ndarray, zero_pad: bool) -> np.ndarray:
    """Characters `(n, 9 width)` of the steps of a sum or a difference."""
    steps = np.empty((*a.shape, 9), dtype=np.uint8)
    steps[:] = np.frombuffer(f"x{sign}y{sign}c=ds;".encode(), dtype=np.uint8)
    for place, digit in ((0, a), (2, b), (4, carries[:, 1:]), (6, carries[:, :-1]), (7, result[:, 1:])):
        steps[:, :, place] = _ZERO + digit[:, ::-1]
    if not zero_pad:
        steps[~(_written(a) | _written(b))[:, ::-1]] = _NOTHING
    return steps.reshape(len(a), -1)


def _product(a: np.ndarray, b: np.ndarray, reverse: bool, zero_pad: bool, scratchpad: bool) -> list[np.ndarray | str]:
    """Parts of a product's completion."""
    if not scratchpad:
        return [_turned(_characters(multiply(a, b), zero_pad), reverse)]
    rows, width = a.shape
    steps, written = [], np.ones(b.shape, dtype=bool) if zero_pad else _written(b)
    running = np.zeros((rows, 2 * width), dtype=np.uint8)
    for place in reversed(range(width)):
        partial, digit = np.zeros_like(running), b[:, place : place + 1]
        partial[:, place : place + width + 1] = multiply(a, digit)
        running = add(running, partial)[0][:, 1:]
        numbers = [_turned(_characters(number, zero_pad), reverse) for number in (partial, running)]
        step = _side_by_side(["*", digit + np.uint8(_ZERO), "=", numbers[0], ",", numbers[1], ";"], rows)
        step[~written[:, place]] = _NOTHING
        steps.append(step)
    return [*steps, "#", _turned(_characters(running, zero_pad), reverse)]


def _written(digits: np.ndarray) -> np.ndarray:
    """Which digits `(n, width)` are not leading zeros. The last digit never is one, because zero is written "0"."""
    written, begun = np.empty(digits.shape, dtype=bool), np.zeros(len(digits), dtype=bool)
    for place, digit in enumerate(digits.T):
        begun = begun | (digit > 0)
        written[:, place] = begun
    written[:, -1] = True
    return written


def _characters(digits: np.ndarray, zero_pad: bool) -> np.ndarray:
    """Digits as ASCII `(n, width)` uint8, without leading zeros unless `zero_pad`."""
    characters = (digits + _ZERO).astype(np.uint8)
    return characters if zero_pad else np.where(_written(digits), characters, np.uint8(_NOTHING))


def _turned(characters: np.ndarray, reverse: bool) -> np.ndarray:
    return characters[:, ::-1] if reverse else characters


def _side_by_side(parts: list[np.ndarray | str], rows: int) -> np.ndarray:
    """Concatenate the characters `(n, width)` of all parts. A part of one character is repeated in every row."""
    return np.concatenate(
        [np.full((rows, 1), ord(part), dtype=np.uint8) if isinstance(part, str) else part for part in parts], axis=1
    )


def _strings(parts: list[np.ndarray | str]) -> pa.StringArray:
    """The parts of each row joined into one Arrow string, without a Python loop."""
    rows = next(len(part) for part in parts if not isinstance(part, str))
    characters = _side_by_side(parts, rows)
    written = characters != _NOTHING
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(written.sum(axis=1), out=offsets[1:])
    # Boolean indexing reads row by row, so the strings follow each other.
    text = characters if offsets[-1] == characters.size else characters[written]
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text)))
