"""Digit arithmetic, ``012+345=`` -> ``7530``: sums, differences and products of numbers of up to 20 digits.

In here: the configuration and the builder. `text.py` defines how a problem is written (reversed, zero-padded, with a
scratchpad). `draw.py` draws operands for up to a million rows of up to nine digits. `stream.py` draws all others, and those of
the length-generalisation splits. The spellings are those of Lee et al., "Teaching Arithmetic to Small Transformers" (arXiv
2307.03381). The scratchpad goes back to Nye et al., "Show Your Work: Scratchpads for Intermediate Computation with Language
Models" (arXiv 2112.00114).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import ROWS_PER_TABLE, SizedConfig, TaskBuilder, in_pieces
from hf_radial.tasks.checks import flag, one_of, whole_number
from hf_radial.tasks.digits.arithmetic import INT64_DIGITS, digits_of, numbers_of
from hf_radial.tasks.digits.draw import draw_pairs, in_memory
from hf_radial.tasks.digits.stream import strata, streamed_pairs
from hf_radial.tasks.digits.text import SIGNS, alphabet, most_characters, spell

MOST_DIGITS = 20
# For each 100,000 rows, a streamed split needs about 100 bytes of memory.
MOST_ROWS = 10**10
# Limit of the characters in one table, which bounds the memory while its texts are built.
_CHARACTERS_PER_TABLE = 20_000_000


@dataclass
class DigitsConfig(SizedConfig):
    """The operands to draw, and how to write them.

    Up to a million rows of up to nine digits are drawn in memory. Larger draws are made row by row while they are read. In
    both, no pair of operands is repeated. The operation and the spelling do not change which pairs are drawn.

    Args:
        operation: "add", "sub" or "mul" (or "+", "-", "*").
        digits: digits of the longest operand, 1 to 20. Operands run from 0 to `10**digits - 1`. Above 18 (including
            `longer_digits`), a and b are `decimal128(38, 0)` instead of int64.
        sampling: "uniform" over operand pairs (most have `digits` digits), or "balanced" over the number of digits of the
            longer operand.
        reverse: write the answer with the least significant digit first, the order in which carries are found.
        zero_pad: write operands with `digits` digits and answers with `digits + 1` (products: `2 * digits`).
        scratchpad: write the steps before the answer.
        train_size: rows of the training split, at least 1.
        validation_size: rows of the validation split; 0 leaves the split out.
        test_size: rows of the test split, at least 1.
        commutative: "together" keeps (a, b) and (b, a) in one split (if rows are not drawn in memory, only one of the two is a
            row). "split" allows them in two splits.
        longer_digits: number of extra test splits for length generalisation: `test_4_digits`, `test_5_digits`, ... for
            `digits=3`. In each row, the longer operand has exactly that many digits, and zero-padding fills to that width.
        longer_size: rows of each of these splits.

    Raises:
        ValueError: a field is out of its range, or more rows are asked for than there are pairs.

    Example:
        >>> DigitsConfig(digits=3).name
        'add3_uniform_rev_pad_n500-1000-2000_together_s0'
        >>> DigitsConfig(name="mul5_balanced_fwd_nopad_scratch_n100-0-10_split_s1_longer2x50").all_sizes
        {'train': 100, 'validation': 0, 'test': 10, 'test_6_digits': 50, 'test_7_digits': 50}
        >>> DigitsConfig(digits=1, train_size=100)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: train_size + validation_size + test_size = 3100 rows, but there are only 100 different ones; ask for ...
    """

    operation: str = "add"
    digits: int = 3
    sampling: str = "uniform"
    reverse: bool = True
    zero_pad: bool = True
    scratchpad: bool = False
    train_size: int = 500
    validation_size: int = 1000
    test_size: int = 2000
    commutative: str = "together"
    longer_digits: int = 0
    longer_size: int = 1000

    PATTERN: ClassVar[str] = (
        r"(?P<operation>add|sub|mul)(?P<digits>\d+)_(?P<sampling>uniform|balanced)_(?P<reverse>rev|fwd)_(?P<zero_pad>pad|nopad)"
        r"(?P<scratchpad>_scratch)?_n(?P<train_size>\d+)-(?P<validation_size>\d+)-(?P<test_size>\d+)"
        r"_(?P<commutative>together|split)_s(?P<seed>\d+)(?:_longer(?P<longer_digits>\d+)x(?P<longer_size>\d+))?"
    )
    EXAMPLE: ClassVar[str] = "add3_uniform_rev_pad_n500-1000-2000_together_s0"

    @classmethod
    def value_in_name(cls, field: str, text: str) -> Any:
        return text in ("rev", "pad") if field in ("reverse", "zero_pad") else super().value_in_name(field, text)

    def check(self) -> None:
        super().check()
        by_sign = {sign: operation for operation, sign in SIGNS.items()}
        given = one_of("operation", self.operation, [*SIGNS, *by_sign])
        self.operation = by_sign.get(given, given)
        for name, allowed in (("sampling", ("uniform", "balanced")), ("commutative", ("together", "split"))):
            one_of(name, getattr(self, name), allowed)
        for name in ("reverse", "zero_pad", "scratchpad"):
            flag(name, getattr(self, name))
        self.digits = whole_number("digits", self.digits, 1)
        self.longer_digits = whole_number("longer_digits", self.longer_digits, 0)
        self.longer_size = whole_number("longer_size", self.longer_size, 1)
        if self.digits + self.longer_digits > MOST_DIGITS:
            raise ValueError(
                f"digits + longer_digits = {self.digits} + {self.longer_digits} must be at most {MOST_DIGITS}: an operand "
                "is drawn as two 64-bit numbers of ten digits each; lower one of them."
            )
        if not self.longer_digits and self.longer_size != type(self).longer_size:
            raise ValueError(f"longer_size={self.longer_size} needs longer_digits of at least 1; give it, or leave both out.")
        for split, size in self.all_sizes.items():
            if size > MOST_ROWS:
                argument = "longer_size" if split in self.longer_splits else f"{split}_size"
                raise ValueError(f"{argument}={size:,} is above {MOST_ROWS:,} rows; ask for fewer.")
        if in_memory(self):
            self.check_enough(10 ** (2 * self.digits), f"ask for fewer rows or raise digits={self.digits}")
        else:
            more = ", give commutative='split'" if self.commutative == "together" else ""
            existing = sum(stratum.rows for stratum in strata(self, "train"))
            self.check_enough(existing, f"ask for fewer rows{more} or raise digits={self.digits}")
        for split in self.longer_splits:
            if self.longer_size > (existing := strata(self, split)[0].rows):
                raise ValueError(f"longer_size={self.longer_size}, but {split} can have {existing} rows at most; lower it.")

    @property
    def longer_splits(self) -> dict[str, int]:
        """The length-generalisation splits and their digits."""
        return {f"test_{n}_digits": n for n in range(self.digits + 1, self.digits + self.longer_digits + 1)}

    @property
    def all_sizes(self) -> dict[str, int]:
        """Rows of each split. `sizes` leaves out the length-generalisation splits."""
        return {**self.sizes, **dict.fromkeys(self.longer_splits, self.longer_size)}

    def digits_of_split(self, split: str) -> int:
        """Digits of the longest operand that a split can have."""
        return self.longer_splits.get(split, self.digits)

    def spell_name(self) -> str:
        scratch = "_scratch" if self.scratchpad else ""
        longer = f"_longer{self.longer_digits}x{self.longer_size}" if self.longer_digits else ""
        return (
            f"{self.operation}{self.digits}_{self.sampling}_{'rev' if self.reverse else 'fwd'}"
            f"_{'pad' if self.zero_pad else 'nopad'}{scratch}_n{self.train_size}-{self.validation_size}-{self.test_size}"
            f"_{self.commutative}_s{self.seed}{longer}"
        )


class DigitArithmetic(TaskBuilder):
    """Builder of `DigitsConfig`.

    Columns: the operands `a` and `b` as numbers, `prompt` such as "012+345=", and `completion` such as "7530" (357, padded and
    reversed). There are no spaces, because each token is a character. There is no ``view="classification"``, because the
    answers are not classes. Drop `a` and `b` before training if they are decimals (`digits` above 18): PyTorch has no such
    type.
    """

    BUILDER_CONFIG_CLASS = DigitsConfig
    SUMMARY = "Digit arithmetic: sums, differences and products, with splits that share no pair of operands."
    SOURCE = "Lee et al. 2023, arXiv 2307.03381"
    REORDERINGS = True
    SHELF = (
        "add3_uniform_rev_pad_n500-1000-2000_together_s0",
        "add3_uniform_fwd_nopad_n10000-1000-2000_together_s0",
        "add3_balanced_rev_nopad_n10000-1000-9000_together_s0",
        "add3_balanced_fwd_nopad_scratch_n3000-1000-2000_together_s0",
        "add10_balanced_rev_nopad_n20000-1000-2000_together_s0_longer10x1000",
        "sub3_uniform_rev_nopad_n10000-1000-2000_together_s0",
        "sub3_balanced_fwd_nopad_scratch_n3000-1000-2000_together_s0",
        "mul2_uniform_rev_pad_n3000-1000-2000_together_s0",
        "mul2_balanced_fwd_nopad_scratch_n3000-1000-2000_together_s0",
        "mul20_uniform_rev_pad_n10000-1000-2000_together_s0",
    )

    def shards(self) -> dict[str, list[tuple[str, np.ndarray | range]]]:
        """A shard is the name of its split with operand pairs `(n, 2)`, or with the row numbers that operands are made from."""
        config = self.config
        pairs: dict[str, np.ndarray] = draw_pairs(config) if in_memory(config) else {}
        shards: dict[str, list[tuple[str, np.ndarray | range]]] = {}
        for split, size in config.all_sizes.items():
            step = most_characters(config.operation, config.digits_of_split(split), config.scratchpad)
            step = max(1, min(ROWS_PER_TABLE, _CHARACTERS_PER_TABLE // step))
            if split in pairs:
                shards[split] = [(split, rows) for rows in in_pieces(pairs[split], step)]
            else:
                shards[split] = [(split, range(start, min(start + step, size))) for start in range(0, size, step)]
        return shards

    def table(self, shard: tuple[str, np.ndarray | range]) -> pa.Table:
        config, (split, rows) = self.config, shard
        if isinstance(rows, range):
            a, b = streamed_pairs(config, split, rows)
        else:
            a, b = (digits_of(column, config.digits) for column in rows.T)
        prompt, completion = spell(config.operation, a, b, config.reverse, config.zero_pad, config.scratchpad)
        decimal = self._decimal
        return pa.table({"a": numbers_of(a, decimal), "b": numbers_of(b, decimal), "prompt": prompt, "completion": completion})

    @property
    def _decimal(self) -> bool:
        # The same type in all splits, because they share one schema.
        return self.config.digits + self.config.longer_digits > INT64_DIGITS

    def features(self) -> datasets.Features:
        number, text = datasets.Value("decimal128(38, 0)" if self._decimal else "int64"), datasets.Value("string")
        return datasets.Features({"a": number, "b": number, "prompt": text, "completion": text})

    @staticmethod
    def vocabulary(config: DigitsConfig) -> str:
        return alphabet(config.operation, config.scratchpad)
