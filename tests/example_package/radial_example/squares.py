"""The task `squares`: (a^2 + c b) mod p for all a and b below p."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import TableBuilder, TableConfig, join
from hf_radial.tasks.checks import whole_number


@dataclass
class SquaresConfig(TableConfig):
    """One table.

    Args:
        p: the modulus, at least 2.
        c: the factor of b.
    """

    p: int = 23
    c: int = 3

    PATTERN: ClassVar[str] = rf"squares_p(?P<p>\d+)_c(?P<c>\d+){TableConfig.TAIL}"
    EXAMPLE: ClassVar[str] = "squares_p23_c3_f0.5_s0"

    def check(self) -> None:
        self.p = whole_number("p", self.p, 2)
        self.c = whole_number("c", self.c, 0)
        super().check()

    @property
    def rows(self) -> int:
        return self.p**2

    def smaller(self) -> str:
        return f"lower p={self.p}"

    def stem(self) -> str:
        return f"squares_p{self.p}_c{self.c}"


class Squares(TableBuilder):
    """Builder of `SquaresConfig`."""

    BUILDER_CONFIG_CLASS = SquaresConfig
    SUMMARY = "A square and a multiple mod p: the complete table, split at random."
    SOURCE = "an example of this package"
    SHELF = ("squares_p23_c3_f0.5_s0",)
    operand_names = ("a", "b")  # type: ignore[assignment]

    def operands(self, rows: np.ndarray) -> np.ndarray:
        return np.stack(np.divmod(rows, self.config.p), axis=1)

    def answers(self, rows: np.ndarray, operands: np.ndarray) -> np.ndarray:
        a, b = operands.T
        return (a**2 + self.config.c * b) % self.config.p

    def words(self) -> pa.Array:
        return pa.array(map(str, range(self.config.p)))

    def prompt(self, operands: np.ndarray) -> pa.Array:
        a, b = (self.words().take(pa.array(column)) for column in operands.T)
        return join(a, " , ", b, " =")

    @staticmethod
    def vocabulary(config: SquaresConfig) -> list[str]:
        return [*map(str, range(config.p)), ",", "="]
