r"""Sparse parity: n bits, and the parity of k of them. The positions of the k bits are the secret.

In here: the draw of the bits, the secret and the noise, and the builder. The definition:

- A row is n bits, and all :math:`2^n` rows are equally likely. The rows of all splits together are a uniform sample without
  replacement. So every row is in one split only, and only once.
- The secret S is a uniformly random set of k of the n positions. It depends only on `seed`, `bits` and `k`: configurations that
  differ in size, noise or view share it. `ParityConfig.relevant` and the builder's description give it.
- The answer is :math:`\bigoplus_{i \in S} x_i`: 1 if an odd number of the k bits is 1, else 0.
- With `noise`, each **training** label is flipped with that probability, independently. The labels of "validation" and "test"
  are never flipped. They measure whether the parity was learned, and a perfect model scores 1.

Sources. Barak et al., "Hidden Progress in Deep Learning" (arXiv 2207.08799), ask which networks find S, mostly with fresh rows
at each step. They use n = 50, k = 3, but no fixed number of rows. Merrill et al., "A Tale of Two Circuits" (arXiv 2303.11873),
train on 1,000 rows of n = 40, k = 3 and observe delayed generalisation. Their code tests on 100 rows, and its secret is the
first k positions. Both papers write a bit as -1 or +1 (`1 - 2 * input_ids`), and the label is the product of the bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import datasets
import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import NUMBER, ROWS_PER_TABLE, VIEWS, SizedConfig, TaskBuilder, fixed_lists, join
from hf_radial.tasks.checks import fraction, one_of, whole_number
from hf_radial.tasks.draws import check_memory, digits, distinct_rows, draw_symbols, join_words
from hf_radial.tasks.splits import random_generator, random_order


@dataclass
class ParityConfig(SizedConfig):
    """One secret, and the rows that are drawn for it.

    Args:
        bits: bits of a row, n, from 1 to 100,000.
        k: number of bits that decide the label, from 1 to n.
        noise: probability that a training label is flipped, from 0 to 0.5 (at 0.5 nothing can be learned). Held-out labels are
            never flipped.
        view: "classification" (`input_ids` the bits, `labels` 0 or 1) or "lm" ("0 1 1 0 =" and " 1").

    Raises:
        ValueError: a field is out of its range, or there are more rows than the 2**n that exist, or than fit in memory.

    Example:
        >>> config = ParityConfig(bits=40, k=3, noise=0.1)
        >>> config.name
        'parity_bits40_k3_noise0.1_n1000-0-1000_s0'
        >>> config.relevant == ParityConfig(name="parity_bits40_k3_n200-0-100_s0_lm").relevant
        True
        >>> len(config.relevant)
        3
        >>> ParityConfig(bits=10, k=3)
        Traceback (most recent call last):
        ...
        ValueError: train_size + validation_size + test_size = 2000 rows, but there are only 1024 different ones;
        lower them or raise bits=10.
    """

    bits: int = 40
    k: int = 3
    noise: float = 0.0
    view: str = "classification"

    PATTERN: ClassVar[str] = (
        rf"parity_bits(?P<bits>\d+)_k(?P<k>\d+)(?:_noise(?P<noise>{NUMBER}))?{SizedConfig.SIZES}(?P<view>_lm)?"
    )
    EXAMPLE: ClassVar[str] = "parity_bits40_k3_n1000-0-1000_s0"

    def check(self) -> None:
        super().check()
        self.bits = whole_number("bits", self.bits, 1, 100_000)
        self.k = whole_number("k", self.k, 1, self.bits)
        self.noise = fraction("noise", self.noise, zero=True)
        if self.noise > 0.5:
            raise ValueError(f"noise must be at most 0.5, where labels are coin flips, got {self.noise}.")
        one_of("view", self.view, VIEWS)
        self.check_enough(2**self.bits, f"lower them or raise bits={self.bits}")
        check_memory(sum(self.sizes.values()), self.bits, "lower train_size, validation_size or test_size, or bits")

    def spell_name(self) -> str:
        noise = f"_noise{self.noise!r}" if self.noise else ""
        return f"parity_bits{self.bits}_k{self.k}{noise}{self.sizes_in_name()}{'_lm' if self.view == 'lm' else ''}"

    @property
    def relevant(self) -> tuple[int, ...]:
        """The secret: the positions of the k deciding bits, from 0, in ascending order."""
        return _secret(random_generator(self.seed), self.bits, self.k)


class SparseParity(TaskBuilder):
    """Builder of `ParityConfig`: bits and the parity of the secret ones."""

    BUILDER_CONFIG_CLASS = ParityConfig
    SUMMARY = "Sparse parity: n bits, and the parity of k of them. Training labels may be noisy, held-out labels never are."
    SOURCE = "Barak et al. 2022, arXiv 2207.08799; Merrill et al. 2023, arXiv 2303.11873"
    SHELF = (
        "parity_bits40_k3_n1000-0-1000_s0",  # Merrill et al., who test on 100 rows
        "parity_bits40_k3_n1000-0-1000_s0_lm",
        "parity_bits50_k3_n2000-0-1000_s0",
        "parity_bits20_k3_noise0.1_n1000-0-1000_s0",
    )

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        info.description += f" The label is the parity of the bits at positions {list(self.config.relevant)} (from 0)."
        return info

    def features(self) -> datasets.Features:
        number, text = datasets.Value("int64"), datasets.Value("string")
        if self.config.view == "classification":
            return datasets.Features({"input_ids": datasets.List(number, length=self.config.bits), "labels": number})
        return datasets.Features({"prompt": text, "completion": text})

    def shards(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        shards = {}
        for split, (rows, labels) in draw_parity(self.config).items():
            starts = range(0, len(rows), ROWS_PER_TABLE)
            shards[split] = [(rows[at : at + ROWS_PER_TABLE], labels[at : at + ROWS_PER_TABLE]) for at in starts]
        return shards

    def table(self, shard: tuple[np.ndarray, np.ndarray]) -> pa.Table:
        rows, labels = shard
        if self.config.view == "classification":
            return pa.table({"input_ids": fixed_lists(rows.astype(np.int64)), "labels": pa.array(labels)})
        words = pa.array(["0", "1"])
        bits = join_words(words, rows.reshape(-1), np.full(len(rows), self.config.bits))
        return pa.table({"prompt": join(bits, " ="), "completion": join(" ", words.take(pa.array(labels)))})

    @staticmethod
    def vocabulary(config: ParityConfig) -> list[str]:
        return ["0", "1", "="]


def draw_parity(config: ParityConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Bits `(n, bits)` uint8 and labels `(n,)` int64 of every split with rows. The labels of "train" have the noise."""
    rng = random_generator(config.seed)
    # The secret is drawn first, as in `relevant`. The rows continue the stream, so they are independent of the secret.
    relevant = list(_secret(rng, config.bits, config.k))
    rows = distinct_rows(
        rng,
        sum(config.sizes.values()),
        2**config.bits,
        lambda rank: digits(rank, 2, config.bits).astype(np.uint8),
        lambda count: draw_symbols(rng, count, config.bits, 2),
    )
    labels = rows[:, relevant].sum(axis=1, dtype=np.int64) % 2
    # A double times a power of two is exact. No label depends on rounding.
    flipped = rng.integers(0, 2**53, size=config.train_size) < math.floor(config.noise * 2**53)
    labels[: config.train_size] ^= flipped
    ends = np.cumsum(list(config.sizes.values()))[:-1]
    parts = zip(config.sizes, np.split(rows, ends), np.split(labels, ends), strict=True)
    return {split: (part, answers) for split, part, answers in parts if len(part)}


def _secret(rng: np.random.Generator, bits: int, k: int) -> tuple[int, ...]:
    return tuple(sorted(random_order(rng, bits)[:k].tolist()))
