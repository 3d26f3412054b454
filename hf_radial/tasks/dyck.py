r"""Dyck words: balanced brackets of several types. The label is how deep they nest.

In here: the draw of the words and the builder. The definition:

- A word has `length` = 2n brackets of k types. Every bracket is closed by one of its own type, in the right order. There are
  :math:`C_n k^n` words, where :math:`C_n = \binom{2n}{n} / (n + 1)` is the n-th Catalan number.
- The answer is the depth: the largest number of brackets open at one time, from 1 to n. It does not depend on the types, and a
  model must learn to ignore them.
- ``sampling="uniform"``: all words are equally likely. The rows of all splits together are a uniform sample without
  replacement. Most depths are then near :math:`\sqrt{\pi n}`, and the largest almost never occur.
- ``sampling="balanced"``: the rows are spread evenly over the depths. A depth with fewer words than its share gives all it has,
  and the other depths share the remainder. Each split takes its proportional share of every depth (to within two rows). Within
  a depth, the rows are a uniform sample without replacement.

Every word is in one split only, and only once. `input_ids` are the ids of `vocabulary`: type t opens with t and closes with
k + t.

The draw is exact. A uniform Dyck path comes from n opening and n + 1 closing steps in random order. Exactly one of the 2n + 1
rotations of such an order stays non-negative until its last step (the cycle lemma of Dvoretzky and Motzkin, 1947). That last
step is left out. A path of a given depth comes from its rank among the paths of that depth, by counting the continuations from
each height.

Relation to the literature. Hewitt et al., "RNNs can generate bounded hierarchical languages with optimal memory" (arXiv
2010.07515), define Dyck-(k,m) as a language to generate: k types, nested at most m deep. Murty et al., "Grokking of
Hierarchical Structure in Vanilla Transformers" (arXiv 2305.18741), train language models on 20 types, at most 10 deep. Their
words come from a probabilistic automaton and have many lengths, and they score the closing brackets. This task is a variant: it
asks for the depth of a whole word, with one length, no bound on the depth but n, and uniform words. Its results are not
comparable with either paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import datasets
import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import VIEWS, SizedConfig, TaskBuilder, fixed_lists, in_pieces, join
from hf_radial.tasks.checks import one_of, whole_number
from hf_radial.tasks.draws import (
    SYMBOLS_PER_DRAW,
    check_memory,
    deal_strata,
    digits,
    distinct_rows,
    draw_symbols,
    even_shares,
    join_words,
)
from hf_radial.tasks.splits import random_generator

SAMPLING = ("uniform", "balanced")
# With up to 35 pairs, the number of paths fits int64. Paths of a given depth are counted in int64.
MOST_PAIRS_BALANCED = 35


@dataclass
class DyckConfig(SizedConfig):
    """The length of the words, and the distribution of their depths.

    Args:
        brackets: types of brackets, k, from 1 to 10,000.
        length: brackets in a word, even, from 2 to 2,000.
        sampling: "uniform" over words, or "balanced" over depths (for `length` up to 70).
        view: "classification" (`input_ids` the brackets: type t opens with t and closes with k + t; `labels` the depth, so
            label 0 never occurs) or "lm" ("( [ ] ) =" and " 2").

    Raises:
        ValueError: a field is out of its range; `length` is odd; or there are more rows than words, or more than fit in memory.

    Example:
        >>> config = DyckConfig(brackets=2, length=20, sampling="balanced")
        >>> config.name
        'dyck_brackets2_length20_balanced_n1000-0-1000_s0'
        >>> config.words
        17199104
        >>> DyckConfig(brackets=2, length=8)
        Traceback (most recent call last):
        ...
        ValueError: train_size + validation_size + test_size = 2000 rows, but there are only 224 different ones;
        lower them, or raise length=8 (14 shapes) or brackets=2 (16 ways to type each).
    """

    brackets: int = 2
    length: int = 20
    sampling: str = "uniform"
    view: str = "classification"

    PATTERN: ClassVar[str] = (
        rf"dyck_brackets(?P<brackets>\d+)_length(?P<length>\d+)(?P<sampling>_balanced)?{SizedConfig.SIZES}(?P<view>_lm)?"
    )
    EXAMPLE: ClassVar[str] = "dyck_brackets2_length20_n10000-0-1000_s0"

    def check(self) -> None:
        super().check()
        self.brackets = whole_number("brackets", self.brackets, 1, 10_000)
        self.length = whole_number("length", self.length, 2, 2000)
        if self.length % 2:
            raise ValueError(f"length must be even, because every bracket is closed, got {self.length}.")
        one_of("sampling", self.sampling, SAMPLING)
        one_of("view", self.view, VIEWS)
        if self.sampling == "balanced" and self.pairs > MOST_PAIRS_BALANCED:
            raise ValueError(
                f"length must be at most {2 * MOST_PAIRS_BALANCED} for sampling='balanced', which counts words in 64-bit "
                f"integers, got {self.length}; lower it or take sampling='uniform'."
            )
        self.check_enough(
            self.words,
            f"lower them, or raise length={self.length} ({catalan(self.pairs)} shapes) or brackets={self.brackets} "
            f"({self.brackets**self.pairs} ways to type each)",
        )
        check_memory(sum(self.sizes.values()), self.length, "lower train_size, validation_size or test_size, or length")

    @property
    def pairs(self) -> int:
        """Pairs of brackets in a word, n; the largest depth."""
        return self.length // 2

    @property
    def words(self) -> int:
        """How many words there are."""
        return catalan(self.pairs) * self.brackets**self.pairs

    def spell_name(self) -> str:
        balanced = "_balanced" if self.sampling == "balanced" else ""
        lm = "_lm" if self.view == "lm" else ""
        return f"dyck_brackets{self.brackets}_length{self.length}{balanced}{self.sizes_in_name()}{lm}"


class DyckDepth(TaskBuilder):
    """Builder of `DyckConfig`: balanced brackets and their nesting depth."""

    BUILDER_CONFIG_CLASS = DyckConfig
    SUMMARY = "Dyck depth: balanced brackets of several types, drawn uniformly or evenly over depths; how deep do they nest?"
    SOURCE = "after Hewitt et al. 2020, arXiv 2010.07515, and Murty et al. 2023, arXiv 2305.18741, of which it is a variant"
    SHELF = (
        "dyck_brackets2_length20_n10000-0-1000_s0",
        "dyck_brackets2_length20_n10000-0-1000_s0_lm",
        "dyck_brackets2_length20_balanced_n10000-0-1000_s0",
        "dyck_brackets20_length100_n10000-0-1000_s0",
    )

    def features(self) -> datasets.Features:
        number, text = datasets.Value("int64"), datasets.Value("string")
        if self.config.view == "classification":
            return datasets.Features({"input_ids": datasets.List(number, length=self.config.length), "labels": number})
        return datasets.Features({"prompt": text, "completion": text})

    def shards(self) -> dict[str, list[np.ndarray]]:
        return {split: in_pieces(rows) for split, rows in draw_dyck(self.config).items()}

    def table(self, shard: np.ndarray) -> pa.Table:
        depths = depth_of(shard, self.config.brackets)
        if self.config.view == "classification":
            return pa.table({"input_ids": fixed_lists(shard.astype(np.int64)), "labels": pa.array(depths)})
        brackets = pa.array(bracket_words(self.config.brackets))
        numbers = pa.array(map(str, range(self.config.pairs + 1)))
        words = join_words(brackets, shard.reshape(-1), np.full(len(shard), self.config.length))
        return pa.table({"prompt": join(words, " ="), "completion": join(" ", numbers.take(pa.array(depths)))})

    @staticmethod
    def vocabulary(config: DyckConfig) -> list[str]:
        return [*bracket_words(config.brackets), "=", *map(str, range(1, config.pairs + 1))]


def catalan(pairs: int) -> int:
    """The Catalan number: how many Dyck paths have `pairs` steps up.

    >>> [catalan(pairs) for pairs in range(6)]
    [1, 1, 2, 5, 14, 42]
    """
    return comb(2 * pairs, pairs) // (pairs + 1)


def bracket_words(brackets: int) -> list[str]:
    """The opening brackets of each type, then the closing ones. From five types on they are numbered.

    >>> bracket_words(2), bracket_words(11)[10], bracket_words(11)[-1]
    (['(', '[', ')', ']'], '(10', '10)')
    """
    if brackets <= 4:
        return [*"([{<"[:brackets], *")]}>"[:brackets]]
    return [*(f"({i}" for i in range(brackets)), *(f"{i})" for i in range(brackets))]


def depth_of(words: np.ndarray, brackets: int) -> np.ndarray:
    """Depth `(n,)` int64 of words `(n, length)` of bracket ids.

    >>> depth_of(np.array([[0, 1, 3, 2], [0, 2, 1, 3]]), brackets=2)
    array([2, 1])
    """
    return np.cumsum(np.where(words < brackets, 1, -1), axis=1).max(axis=1)


def draw_dyck(config: DyckConfig) -> dict[str, np.ndarray]:
    """Words `(n, length)` uint16 of bracket ids for every split with rows, in random order."""
    rng, pairs, brackets = random_generator(config.seed), config.pairs, config.brackets
    types = brackets**pairs

    def sample(count: int, depth: int | None) -> np.ndarray:
        """`count` different words of one depth, or of any depth."""
        paths = catalan(pairs) if depth is None else paths_of_depth(pairs, depth)

        def of_rank(rank: np.ndarray) -> np.ndarray:
            path, typing = np.divmod(rank, types)
            return typed(path_of_rank(path, pairs, depth), digits(typing, brackets, pairs), brackets)

        def draw(number: int) -> np.ndarray:
            if depth is None:
                path = random_paths(rng, number, pairs)
            else:
                path = path_of_rank(rng.integers(0, paths, size=number), pairs, depth)
            return typed(path, draw_symbols(rng, number, pairs, brackets), brackets)

        return distinct_rows(rng, count, paths * types, of_rank, draw)

    if config.sampling == "uniform":
        strata = [sample(sum(config.sizes.values()), None)]
    else:
        capacities = [paths_of_depth(pairs, depth) * types for depth in range(1, pairs + 1)]
        shares = even_shares(sum(config.sizes.values()), capacities)
        strata = [sample(share, depth) for depth, share in enumerate(shares, start=1)]
    return deal_strata(rng, strata, config.sizes)


def random_paths(rng: np.random.Generator, count: int, pairs: int) -> np.ndarray:
    """`count` independent uniform Dyck paths `(count, 2 * pairs)` bool, True where a bracket opens. By the cycle lemma."""
    paths, steps = np.empty((count, 2 * pairs), dtype=bool), 2 * pairs + 1
    at_once = max(1, SYMBOLS_PER_DRAW // steps)
    for start in range(0, count, at_once):
        keys = rng.integers(0, 2**63 - 1, size=(min(at_once, count - start), steps))
        opens = np.argsort(keys, axis=1, kind="stable") < pairs
        heights = np.cumsum(np.where(opens, np.int16(1), np.int16(-1)), axis=1, dtype=np.int16)
        # The good rotation begins after the first lowest point, and ends on the step down to it.
        first = heights.argmin(axis=1) + 1
        paths[start : start + at_once] = np.take_along_axis(opens, (first[:, None] + np.arange(2 * pairs)) % steps, axis=1)
    return paths


def ways_home(pairs: int, bound: int) -> np.ndarray:
    """Number of ways from height h back to 0 in s steps within `[0, bound]`: entry `[h, s]` int64.

    Filled for all h up to `pairs + 1` and s up to `2 * pairs` that a path of `2 * pairs` steps can reach (h + s <= 2 * pairs).
    All other entries are 0.

    >>> ways_home(3, 3)[0].tolist(), ways_home(3, 1)[0].tolist()
    ([1, 0, 1, 0, 2, 0, 5], [1, 0, 1, 0, 1, 0, 1])
    """
    ways = np.zeros((pairs + 2, 2 * pairs + 1), dtype=np.int64)
    ways[0, 0] = 1
    for steps in range(1, 2 * pairs + 1):
        top = min(bound, 2 * pairs - steps)
        ways[: top + 1, steps] = ways[1 : top + 2, steps - 1]
        ways[1 : top + 1, steps] += ways[:top, steps - 1]
    return ways


def paths_of_depth(pairs: int, depth: int) -> int:
    """How many Dyck paths have exactly this depth.

    >>> [paths_of_depth(4, depth) for depth in (1, 2, 3, 4)]
    [1, 7, 5, 1]
    """
    return int(ways_home(pairs, depth)[0, -1] - ways_home(pairs, depth - 1)[0, -1])


def path_of_rank(rank: np.ndarray, pairs: int, depth: int | None) -> np.ndarray:
    """The Dyck path `(n, 2 * pairs)` bool of each rank `(n,)` among the paths of one depth, or among all.

    >>> path_of_rank(np.arange(2), pairs=2, depth=None).astype(int).tolist()
    [[1, 1, 0, 0], [1, 0, 1, 0]]
    """
    bound = pairs if depth is None else depth
    within, short = ways_home(pairs, bound), ways_home(pairs, bound - 1)
    paths = np.empty((len(rank), 2 * pairs), dtype=bool)
    height, reached = np.zeros(len(rank), dtype=np.int64), np.full(len(rank), depth is None)
    for step in range(2 * pairs):
        left = 2 * pairs - step - 1
        # Continuations after an opening bracket. Until the depth has been reached, those that never reach it are left out.
        up_reached = reached | (height + 1 == bound)
        ways = within[height + 1, left] - np.where(up_reached, 0, short[height + 1, left])
        opens = rank < ways
        rank = rank - np.where(opens, 0, ways)
        height, reached = height + np.where(opens, 1, -1), np.where(opens, up_reached, reached)
        paths[:, step] = opens
    return paths


def typed(paths: np.ndarray, types: np.ndarray, brackets: int) -> np.ndarray:
    """Words `(n, 2 * pairs)` uint16 of paths: the i-th bracket that opens, and the one that closes it, have type `types[:, i]`.

    >>> typed(np.array([[True, True, False, False]]), np.array([[0, 1]]), brackets=2).tolist()
    [[0, 1, 3, 2]]
    """
    words, rows = np.empty(paths.shape, dtype=np.uint16), np.arange(len(paths))
    stack = np.empty((len(paths), types.shape[1] + 1), dtype=np.uint16)
    height, opened = np.zeros(len(paths), dtype=np.int64), np.zeros(len(paths), dtype=np.int64)
    for step, opens in enumerate(paths.T):
        # `opened` may be past the end at a closing bracket. The value written there lies above the top of the stack.
        stack[rows, height] = types[rows, np.minimum(opened, types.shape[1] - 1)]
        words[:, step] = np.where(opens, stack[rows, height], stack[rows, height - 1] + brackets)
        height, opened = height + np.where(opens, 1, -1), opened + opens
    return words
