r"""Sequences to copy, reverse or sort, with test splits that are longer than the training sequences.

In here: the draw of the sequences and the builder. The definition:

- A sequence has l symbols out of v, the numbers 0 to v - 1. Symbols may repeat. There are :math:`v^l` sequences of length l.
- Lengths run from `min_length` to `max_length`. The rows of train, validation and test together are spread **evenly over the
  lengths**. A length with fewer sequences than its share gives all it has, and the longer ones share what is left over. The
  remainder of the division goes to the longest. Each split takes its proportional share of every length (to within two rows).
  Within a length, the rows are a uniform sample without replacement. So every sequence is in one split only, and only once.
- A uniform draw over all sequences would give nearly only sequences of `max_length` (nine in ten for v = 10).
- `longer_length` adds a test split for each length from `max_length` + 1 to `longer_length`: "test_length_11" and so on. Each
  has `test_size` rows. They measure how far the model generalises to longer sequences.
- The answer is the sequence itself, its reverse, or its symbols in ascending order.

There is no view for classification. An answer is as long as its sequence, so the number of classes is not fixed.

Sources. Delétang et al., "Neural Networks and the Chomsky Hierarchy" (arXiv 2207.02098), and Zhou et al., "What Algorithms can
Transformers Learn?" (arXiv 2310.16028), train on short sequences and test on longer ones. Alphabets, lengths and numbers of
rows differ from paper to paper, so the configurations on the shelf are our own. Sorting six of three symbols is the
demonstration of minGPT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import datasets
import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import SizedConfig, TaskBuilder, in_pieces, join
from hf_radial.tasks.checks import one_of, whole_number
from hf_radial.tasks.draws import check_memory, deal_strata, digits, distinct_rows, draw_symbols, even_shares, join_words
from hf_radial.tasks.splits import random_generator

OPERATIONS = ("copy", "reverse", "sort")
# Fills a row after the end of its sequence. It is larger than any symbol, so sorting leaves it at the end.
END = np.uint16(2**16 - 1)


@dataclass
class SequencesConfig(SizedConfig):
    """One operation and the lengths of its sequences.

    Args:
        operation: "copy", "reverse" or "sort".
        vocabulary_size: number of symbols, v, from 2 to 60,000.
        min_length: shortest sequence, from 1.
        max_length: longest sequence of train, validation and test, up to 1,000.
        longer_length: longest sequence of the extra test splits, one for each length above `max_length`, up to 1,000; 0 for
            none.
        view: "lm" only. An answer is as long as its sequence, so it is not a class.

    Raises:
        ValueError: a field is out of its range; or there are more rows than sequences, or more than fit in memory.

    Example:
        >>> config = SequencesConfig(operation="reverse", vocabulary_size=10, max_length=10, longer_length=12)
        >>> config.name
        'reverse_v10_l1-10-12_n1000-0-1000_s0'
        >>> config.sizes
        {'train': 1000, 'validation': 0, 'test': 1000, 'test_length_11': 1000, 'test_length_12': 1000}
        >>> config.shares
        [10, 100, 236, 236, 236, 236, 236, 236, 237, 237]
        >>> SequencesConfig(operation="sort", vocabulary_size=3, max_length=4)
        Traceback (most recent call last):
        ...
        ValueError: train_size + validation_size + test_size = 2000 rows, but there are only 120 different ones;
        lower them, or raise max_length=4 or vocabulary_size=3.
    """

    operation: str = "copy"
    vocabulary_size: int = 10
    min_length: int = 1
    max_length: int = 10
    longer_length: int = 0
    view: str = "lm"

    PATTERN: ClassVar[str] = (
        rf"(?P<operation>{'|'.join(OPERATIONS)})_v(?P<vocabulary_size>\d+)"
        rf"_l(?P<min_length>\d+)-(?P<max_length>\d+)(?:-(?P<longer_length>\d+))?{SizedConfig.SIZES}"
    )
    EXAMPLE: ClassVar[str] = "reverse_v10_l1-10-20_n10000-0-1000_s0"

    def check(self) -> None:
        super().check()
        one_of("operation", self.operation, OPERATIONS)
        one_of("view", self.view, ("lm",))
        self.vocabulary_size = whole_number("vocabulary_size", self.vocabulary_size, 2, 60_000)
        self.min_length = whole_number("min_length", self.min_length, 1, 1000)
        self.max_length = whole_number("max_length", self.max_length, 1, 1000)
        self.longer_length = whole_number("longer_length", self.longer_length, 0, 1000)
        if self.max_length < self.min_length:
            raise ValueError(f"max_length={self.max_length} is below min_length={self.min_length}; raise it.")
        if 0 < self.longer_length <= self.max_length:
            raise ValueError(
                f"longer_length={self.longer_length} must be above max_length={self.max_length}, or 0 for no longer sequences."
            )
        longest = max(self.max_length, self.longer_length)
        check_memory(sum(self.sizes.values()), longest, "lower train_size, validation_size or test_size, or the lengths")
        self.check_enough(
            sum(self.capacities), f"lower them, or raise max_length={self.max_length} or vocabulary_size={self.vocabulary_size}"
        )
        # The longer lengths need no check: each has at least as many sequences as all shorter lengths together.

    @property
    def drawn_together(self) -> dict[str, int]:
        """Rows of the splits that share the lengths from `min_length` to `max_length`."""
        return super().sizes

    @property
    def longer(self) -> dict[str, int]:
        """Length of each extra test split."""
        return {f"test_length_{length}": length for length in range(self.max_length + 1, self.longer_length + 1)}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split, including the splits of longer sequences."""
        return {**self.drawn_together, **dict.fromkeys(self.longer, self.test_size)}

    @property
    def capacities(self) -> list[int]:
        """Number of sequences of each length from `min_length` to `max_length`."""
        return [self.vocabulary_size**length for length in range(self.min_length, self.max_length + 1)]

    @property
    def shares(self) -> list[int]:
        """Rows of each of these lengths in train, validation and test together."""
        return even_shares(sum(self.drawn_together.values()), self.capacities)

    def spell_name(self) -> str:
        longer = f"-{self.longer_length}" if self.longer_length else ""
        lengths = f"l{self.min_length}-{self.max_length}{longer}"
        return f"{self.operation}_v{self.vocabulary_size}_{lengths}{self.sizes_in_name()}"


class Sequences(TaskBuilder):
    """Builder of `SequencesConfig`: "3 1 2 =" and " 2 1 3"."""

    BUILDER_CONFIG_CLASS = SequencesConfig
    SUMMARY = "Sequences: copied, reversed or sorted, spread evenly over their lengths, with splits of longer ones."
    SOURCE = "Delétang et al. 2022, arXiv 2207.02098; Zhou et al. 2023, arXiv 2310.16028"
    SHELF = (
        "copy_v10_l1-10-15_n10000-0-1000_s0",
        "reverse_v10_l1-10-15_n10000-0-1000_s0",
        "sort_v10_l1-10-15_n10000-0-1000_s0",
        "sort_v3_l6-6_n547-0-182_s0",  # all 729 sequences of the minGPT demonstration, which also tests on a quarter of them
    )

    def features(self) -> datasets.Features:
        text = datasets.Value("string")
        return datasets.Features({"prompt": text, "completion": text})

    def shards(self) -> dict[str, list[np.ndarray]]:
        return {split: in_pieces(rows) for split, rows in draw_sequences(self.config).items()}

    def table(self, shard: np.ndarray) -> pa.Table:
        words, within = pa.array(map(str, range(self.config.vocabulary_size))), shard != END
        texts = [
            join_words(words, sequences[within], within.sum(axis=1))
            for sequences in (shard, answer(shard, self.config.operation))
        ]
        return pa.table({"prompt": join(texts[0], " ="), "completion": join(" ", texts[1])})

    @staticmethod
    def vocabulary(config: SequencesConfig) -> list[str]:
        return [*map(str, range(config.vocabulary_size)), "="]


def answer(sequences: np.ndarray, operation: str) -> np.ndarray:
    """The result of an operation on sequences `(n, longest)` uint16 that are filled up with `END`.

    >>> answer(np.array([[3, 1, 2], [7, 5, END]], dtype=np.uint16), "reverse").tolist()
    [[2, 1, 3], [5, 7, 65535]]
    """
    if operation == "copy":
        return sequences
    if operation == "sort":
        return np.sort(sequences, axis=1)
    lengths = (sequences != END).sum(axis=1, keepdims=True)
    # The sequence in reverse. The `END`s after it keep their places.
    places = np.arange(sequences.shape[1])
    return np.take_along_axis(sequences, np.where(places < lengths, lengths - 1 - places, places), axis=1)


def draw_sequences(config: SequencesConfig) -> dict[str, np.ndarray]:
    """Sequences `(n, longest)` uint16 of every split with rows, filled up with `END`, in random order."""
    rng = random_generator(config.seed)
    lengths = range(config.min_length, config.max_length + 1)
    strata = [
        _sequences(rng, count, config.vocabulary_size, length, config.max_length)
        for length, count in zip(lengths, config.shares, strict=True)
    ]
    splits = deal_strata(rng, strata, config.drawn_together)
    for split, length in config.longer.items():
        splits[split] = _sequences(rng, config.test_size, config.vocabulary_size, length, length)
    return splits


def _sequences(rng: np.random.Generator, count: int, symbols: int, length: int, width: int) -> np.ndarray:
    """`count` different sequences of one length, in `width` columns."""
    rows = np.full((count, width), END)
    rows[:, :length] = distinct_rows(
        rng,
        count,
        symbols**length,
        lambda rank: digits(rank, symbols, length),
        lambda number: draw_symbols(rng, number, length, symbols),
    )
    return rows
