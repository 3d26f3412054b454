"""Every spelling, parsed back."""

from __future__ import annotations

import re

import numpy as np
import pytest
from digit_pairs import as_digits, edges, longer

from hf_radial.tasks.digits.arithmetic import digits_of
from hf_radial.tasks.digits.text import spell


@pytest.mark.parametrize("operation", ["add", "sub", "mul"])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("zero_pad", [True, False])
@pytest.mark.parametrize("width", [1, 3, 20])
def test_every_step_of_a_scratchpad_follows_from_the_one_before(
    operation: str, reverse: bool, zero_pad: bool, width: int
) -> None:
    """Read as a reader would: from the text alone, step by step, to the answer."""
    a, b = edges(width)
    prompts, completions = spell(operation, as_digits(a, width), as_digits(b, width), reverse, zero_pad, scratchpad=True)

    def read(text: str) -> int:
        assert re.fullmatch(r"\d+" if operation != "sub" else r"-?\d+|\d+-", text)
        return int(text[::-1] if reverse else text)

    for prompt, completion in zip(prompts.to_pylist(), completions.to_pylist(), strict=True):
        p, q = (int(number) for number in re.fullmatch(r"(\d+)[-+*](\d+)=", prompt).groups())  # type: ignore[union-attr]
        steps, answer = completion.split("#")
        lines = steps.removesuffix(";").split(";")
        sign = 1
        if operation == "sub":
            sign = {"+": 1, "-": -1}[lines.pop(0)]
            assert sign == (1 if p >= q else -1)
            p, q = (p, q) if sign == 1 else (q, p)
        assert len(lines) == (width if zero_pad else len(str(q)) if operation == "mul" else longer(p, q))
        carry = result = 0
        for place, line in enumerate(lines):
            x, y = p // 10**place % 10, q // 10**place % 10
            if operation == "mul":
                partial, running = (read(number) for number in line.removeprefix(f"*{y}=").split(","))
                assert partial == p * y * 10**place and running == result + partial
                result = running
                continue
            mark = "+" if operation == "add" else "-"
            assert line[:-2] == f"{x}{mark}{y}{mark}{carry}="
            out, digit = int(line[-2]), int(line[-1])
            assert x + y + carry == 10 * out + digit if operation == "add" else x - y - carry == digit - 10 * out
            carry, result = out, result + digit * 10**place
        if operation == "add":
            result += carry * 10 ** len(lines)
        else:
            assert carry == 0
        assert read(answer) == sign * result


def test_spellings_of_the_docstring() -> None:
    def one(operation: str, a: int, b: int, *options: bool) -> list[str]:
        return [text[0].as_py() for text in spell(operation, as_digits([a], 3), as_digits([b], 3), *options)]

    assert one("sub", 12, 345, False, False) == ["12-345=", "-333"]
    assert one("sub", 12, 345, True, False) == ["12-345=", "333-"]
    assert one("sub", 45, 57, False, True) == ["045-057=", "-012"]
    assert one("sub", 45, 57, True, True) == ["045-057=", "210-"]
    assert one("sub", 57, 45, False, True) == ["057-045=", "0012"]
    assert one("sub", 7, 7, False, False) == ["7-7=", "0"]
    assert one("mul", 12, 3, False, True) == ["012*003=", "000036"]
    assert one("add", 128, 367, False, False, True) == ["128+367=", "8+7+0=15;2+6+1=09;1+3+0=04;#495"]
    assert one("sub", 45, 128, False, False, True) == ["45-128=", "-;8-5-0=03;2-4-0=18;1-0-1=00;#-83"]
    assert one("mul", 128, 367, False, False, True) == ["128*367=", "*7=896,896;*6=7680,8576;*3=38400,46976;#46976"]


def test_spelling_of_zero_and_of_the_largest_sum_at_nine_digits() -> None:
    most = 10**9 - 1
    a, b = digits_of(np.array([0, most, 7]), 9), digits_of(np.array([0, most, most]), 9)
    prompt, answer = spell("add", a, b, reverse=False, zero_pad=False)
    assert prompt.to_pylist() == ["0+0=", "999999999+999999999=", "7+999999999="]
    assert answer.to_pylist() == ["0", "1999999998", "1000000006"]
    prompt, answer = spell("add", a, b, reverse=True, zero_pad=True)
    assert prompt.to_pylist()[0] == "000000000+000000000="
    assert answer.to_pylist() == ["0000000000", "8999999991", "6000000001"]
