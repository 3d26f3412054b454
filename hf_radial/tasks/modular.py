"""Modular arithmetic: the complete table of an operation on numbers below p, divided into splits.

Delayed generalisation was first observed on these tables. In here: the operations and the builder. The binary operations are
those of Power et al., "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets" (arXiv 2201.02177), appendix
A.1. Two more are a sum of three operands, and a control with random labels, on which no model can generalise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import TableBuilder, TableConfig, join
from hf_radial.tasks.checks import one_of, whole_number
from hf_radial.tasks.permutation import keyed_hash


@dataclass(frozen=True)
class Operation:
    """One operation. `compute` maps operands `(n,)` int64 below p, and p, to answers below p. No intermediate exceeds int64."""

    formula: str
    compute: Callable[..., np.ndarray]
    operands: int = 2
    prime: bool = False  # needs a prime p
    nonzero: bool = False  # b runs from 1
    sign: str = "o"  # between the operands, in text


def _divide(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    return a * _inverses(p)[b] % p


def _inverses(p: int) -> np.ndarray:
    """Inverse of each residue `(p,)` modulo a prime p, by Fermat's little theorem, b**(p-2). The entry of 0 is 0."""
    base, result, exponent = np.arange(p, dtype=np.int64), np.ones(p, dtype=np.int64), p - 2
    while exponent > 0:
        if exponent % 2:
            result = result * base % p
        base = base * base % p
        exponent //= 2
    result[0] = 0
    return result


OPERATIONS: dict[str, Operation] = {
    "add": Operation("a+b", lambda a, b, p: (a + b) % p, sign="+"),
    "sub": Operation("a-b", lambda a, b, p: (a - b) % p, sign="-"),
    "mul": Operation("a*b", lambda a, b, p: a * b % p, sign="*"),
    "div": Operation("a/b", _divide, prime=True, nonzero=True, sign="/"),
    "a2_b2": Operation("a^2+b^2", lambda a, b, p: (a * a + b * b) % p),
    "a2_ab_b2": Operation("a^2+ab+b^2", lambda a, b, p: (a * a + a * b + b * b) % p),
    "a2_ab_b2_a": Operation("a^2+ab+b^2+a", lambda a, b, p: (a * a + a * b + b * b + a) % p),
    "a3_ab": Operation("a^3+ab", lambda a, b, p: (a * a % p * a + a * b) % p),
    "a3_ab2_b": Operation("a^3+ab^2+b", lambda a, b, p: (a * a % p * a + b * b % p * a + b) % p),
    "parity_branch": Operation(
        "a/b if b is odd, else a-b", lambda a, b, p: np.where(b % 2 == 1, _divide(a, b, p), (a - b) % p), prime=True
    ),
    "add3": Operation("a+b+c", lambda a, b, c, p: (a + b + c) % p, operands=3, sign="+"),
    "random": Operation("random labels", lambda a, b, p: np.zeros_like(a)),  # see ModularArithmetic.answers
}
BY_FORMULA = {operation.formula: slug for slug, operation in OPERATIONS.items()}


@dataclass
class ModularConfig(TableConfig):
    """One table.

    Args:
        operation: a formula such as "a+b" or "a^2+ab+b^2", or its name: add, sub, mul, div (b from 1), a2_b2, a2_ab_b2,
            a2_ab_b2_a, a3_ab, a3_ab2_b, parity_branch (a/b if b is odd, else a-b), add3 (a+b+c), random (labels at random,
            one for each row, from the seed).
        p: the modulus, at least 2; prime for operations that divide.

    Raises:
        ValueError: the operation is unknown (the error lists the most similar ones); p is below 2, or composite for an
            operation that divides; a fraction is outside (0, 1) or leaves a split empty; or the table has too many rows.

    Example:
        >>> ModularConfig(operation="a+b", p=97).name
        'add_p97_f0.5_s0'
        >>> ModularConfig(name="a2_ab_b2_p97_f0.3_s1_together_lm").view
        'lm'
        >>> ModularConfig(operation="div", p=96)
        Traceback (most recent call last):
        ...
        ValueError: p must be prime for operation='div' (a/b): 96 is divisible by 2; the nearest primes are 89 and 97.
    """

    operation: str = "add"
    p: int = 97

    PATTERN: ClassVar[str] = rf"(?P<operation>{'|'.join(OPERATIONS)})_p(?P<p>\d+){TableConfig.TAIL}"
    EXAMPLE: ClassVar[str] = "add_p97_f0.5_s0"

    def check(self) -> None:
        given = self.operation.replace(" ", "") if isinstance(self.operation, str) else None
        if given not in OPERATIONS:
            by_formula = {formula.replace(" ", ""): slug for formula, slug in BY_FORMULA.items()}
            if given not in by_formula:
                one_of("operation", self.operation, [*OPERATIONS, *BY_FORMULA])
            given = by_formula[given]
        self.operation = given
        self.p = whole_number("p", self.p, 2)
        super().check()  # first: it bounds p, and the search for a divisor tries one number after the other
        if OPERATIONS[given].prime and (divisor := smallest_divisor(self.p)) != self.p:
            below, above = self.p - 1, self.p + 1
            while smallest_divisor(below) != below:
                below -= 1
            while smallest_divisor(above) != above:
                above += 1
            raise ValueError(
                f"p must be prime for operation={given!r} ({OPERATIONS[given].formula}): {self.p} is divisible by {divisor}; "
                f"the nearest primes are {below} and {above}."
            )

    @property
    def rows(self) -> int:
        operation = OPERATIONS[self.operation]
        return self.p * (self.p - 1) if operation.nonzero else self.p**operation.operands

    def smaller(self) -> str:
        return f"lower p={self.p}"

    def stem(self) -> str:
        return f"{self.operation}_p{self.p}"


class ModularArithmetic(TableBuilder):
    """Builder of `ModularConfig`: every combination of a, b (and c) below p, with the answer below p."""

    BUILDER_CONFIG_CLASS = ModularConfig
    SUMMARY = "Modular arithmetic: the complete table of an operation on residues mod p, split at random."
    SOURCE = "Power et al. 2022, arXiv 2201.02177"
    SHELF = (
        "add_p97_f0.5_s0",
        "add_p97_f0.5_s0_lm",
        "add_p97_f0.5_s0_together",
        "add_p97_f0.3_s0",
        "add_p113_f0.3_s0",
        "add_p997_f0.5_s0",
        *(f"{operation}_p97_f0.5_s0" for operation in OPERATIONS if operation not in ("add", "add3")),
        "div_p97_f0.5_s0_lm",
        "add3_p23_f0.5_s0",
        "add3_p23_f0.5_s0_together",
    )

    @property
    def operand_names(self) -> tuple[str, ...]:
        return ("a", "b", "c")[: OPERATIONS[self.config.operation].operands]

    def operands(self, rows: np.ndarray) -> np.ndarray:
        p, operation = self.config.p, OPERATIONS[self.config.operation]
        if operation.nonzero:
            return np.stack([rows // (p - 1), rows % (p - 1) + 1], axis=1)
        return np.stack([rows // p**i % p for i in reversed(range(operation.operands))], axis=1)

    def answers(self, rows: np.ndarray, operands: np.ndarray) -> np.ndarray:
        if self.config.operation == "random":
            return (keyed_hash(rows, self.config.seed) % np.uint64(self.config.p)).astype(np.int64)
        return OPERATIONS[self.config.operation].compute(*operands.T, self.config.p)

    def words(self) -> pa.Array:
        return pa.array(map(str, range(self.config.p)))

    def prompt(self, operands: np.ndarray) -> pa.Array:
        words, sign = self.words(), f" {OPERATIONS[self.config.operation].sign} "
        texts = [words.take(pa.array(column)) for column in operands.T]
        return join(*[part for text in texts for part in (sign, text)][1:], " =")

    @staticmethod
    def vocabulary(config: ModularConfig) -> list[str]:
        return [*map(str, range(config.p)), OPERATIONS[config.operation].sign, "="]


def smallest_divisor(number: int) -> int:
    """Smallest divisor above 1. For a prime, or a number below 2, it is the number itself.

    >>> smallest_divisor(97), smallest_divisor(91)
    (97, 7)
    """
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            return divisor
        divisor += 1
    return number
