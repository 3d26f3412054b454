"""Evaluation of a polynomial at a point, mod p: all coefficients and points, divided into splits.

The operands are (c_d, ..., c_0, x), each from 0 to p - 1, and the answer is c_d x^d + ... + c_1 x + c_0 mod p. The leading
coefficient may be 0, so the polynomials are those of degree at most d. The modulus need not be prime.

In the modular polynomials of Gromov (arXiv 2301.02679) and of Doshi et al. (arXiv 2406.03495), such as c_1 n_1 + c_2 n_2 or
n_1^a n_2^b, the coefficients are the same for a whole table. The polynomials of Power et al. are in `modular.py`. Here the
coefficients are operands, like x. One network must therefore evaluate every polynomial: it multiplies operands and adds the
products. He et al. (arXiv 2406.02550) also vary the coefficients of a x + b y, but a model must infer them from examples.

The order of the operands matters. There is no ``commutative="together"``, and leaks are counted with `leakage(...,
reorderings=False)`. One symmetry is left at degree 1: c_1 x + c_0 does not change when c_1 and x are exchanged.

In here: the configuration and the builder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import MOST_ROWS, TableBuilder, TableConfig, join
from hf_radial.tasks.checks import whole_number

HIGHEST_DEGREE = MOST_ROWS.bit_length() - 3  # mod 2, there are 2**(degree + 2) rows


@dataclass
class PolynomialConfig(TableConfig):
    """One table.

    Args:
        degree: d, at least 1.
        p: the modulus, at least 2.
        train_fraction: share of all p^(d + 2) rows to train on.
        validation_fraction: share of all rows for validation; 0 leaves the split out.
        commutative: "split" only. The operands in another order are another polynomial.
        view: "classification" (input_ids [c_d, ..., c_0, x]) or "lm" ("3 x + 5 at 7 =" and " 26").
        seed: seeds the split.

    Raises:
        ValueError: a field is out of its range, or there are too many rows.

    Example:
        >>> PolynomialConfig(degree=2, p=13).name
        'poly2_p13_f0.5_s0'
        >>> PolynomialConfig(name="poly1_p31_f0.3_s1_lm").p
        31
    """

    degree: int = 1
    p: int = 31

    PATTERN: ClassVar[str] = rf"poly(?P<degree>\d+)_p(?P<p>\d+){TableConfig.TAIL}"
    EXAMPLE: ClassVar[str] = "poly1_p31_f0.5_s0"

    def check(self) -> None:
        self.degree = whole_number("degree", self.degree, 1, HIGHEST_DEGREE)
        self.p = whole_number("p", self.p, 2)
        super().check()
        if self.commutative == "together":
            raise ValueError(
                "commutative='together' is not for polynomials: the operands are coefficients and a point, and in another "
                "order they are another polynomial at another point; leave it at 'split'."
            )

    @property
    def rows(self) -> int:
        return self.p ** (self.degree + 2)

    def smaller(self) -> str:
        return f"lower p={self.p} or degree={self.degree}"

    def stem(self) -> str:
        return f"poly{self.degree}_p{self.p}"


class PolynomialEvaluation(TableBuilder):
    """Builder of `PolynomialConfig`: every polynomial of degree at most d at every point, with its value."""

    BUILDER_CONFIG_CLASS = PolynomialConfig
    SUMMARY = "Polynomial evaluation mod p: every polynomial of a degree at every point, split at random."
    SOURCE = "after Doshi et al. 2024, arXiv 2406.03495, where the coefficients are fixed"
    REORDERINGS = False
    SHELF = ("poly1_p31_f0.5_s0", "poly1_p31_f0.5_s0_lm", "poly2_p13_f0.5_s0", "poly2_p13_f0.5_s0_lm", "poly3_p7_f0.5_s0")

    @property
    def operand_names(self) -> tuple[str, ...]:
        return (*(f"c{i}" for i in reversed(range(self.config.degree + 1))), "x")

    def operands(self, rows: np.ndarray) -> np.ndarray:
        p = self.config.p
        return np.stack([rows // p**i % p for i in reversed(range(self.config.degree + 2))], axis=1)

    def answers(self, rows: np.ndarray, operands: np.ndarray) -> np.ndarray:
        *coefficients, x = operands.T
        value = np.zeros_like(x)
        for coefficient in coefficients:  # Horner's rule: no intermediate exceeds p**2
            value = (value * x + coefficient) % self.config.p
        return value

    def words(self) -> pa.Array:
        return pa.array(map(str, range(self.config.p)))

    def prompt(self, operands: np.ndarray) -> pa.Array:
        words, powers = self.words(), powers_of_x(self.config.degree)
        *coefficients, x = (words.take(pa.array(column)) for column in operands.T)
        parts = [
            part for text, power in zip(coefficients, (*powers, ""), strict=True) for part in (text, power and f" {power} + ")
        ]
        return join(*parts, " at ", x, " =")

    @staticmethod
    def vocabulary(config: PolynomialConfig) -> list[str]:
        return [*map(str, range(config.p)), *reversed(powers_of_x(config.degree)), "+", "at", "="]


def powers_of_x(degree: int) -> list[str]:
    """Words of the powers of x, highest first.

    >>> powers_of_x(3)
    ['x^3', 'x^2', 'x']
    """
    return [f"x^{i}" if i > 1 else "x" for i in range(degree, 0, -1)]
