"""Dyck words: balance and depth of every row by a stack, exact counts by enumeration, and draws by chi-square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sized_tasks import chi_square, rows_of

from hf_radial.tasks.dyck import DyckConfig, catalan, draw_dyck, path_of_rank, paths_of_depth, random_paths
from hf_radial.tasks.load import builder_class, load_task
from hf_radial.tasks.splits import random_generator

BAD_INPUT = [
    ("dyck", {"length": 21}, r"length must be even, because every bracket is closed, got 21"),
    ("dyck", {"length": 0}, r"length must be a whole number from 2 to 2000"),
    ("dyck", {"brackets": 0}, r"brackets must be a whole number from 1 to 10000"),
    ("dyck", {"length": 8}, r"only 224 different ones; lower them, or raise length=8 \(14 shapes\) or brackets=2 \(16 ways"),
    ("dyck", {"sampling": "deep"}, r"sampling='deep' is unknown"),
    ("dyck", {"sampling": "balanced", "length": 72}, r"length must be at most 70 for sampling='balanced'"),
    ("dyck", {"view": 1}, r"view=1 is unknown"),
    ("dyck", {"length": 2000, "train_size": 10**7}, r"lower train_size, validation_size or test_size, or length"),
    ("dyck", {"config": "dyck_brackets2_length20_uniform_n10-0-10_s0"}, r"is not a configuration of this task"),
    ("dyck", {"config": "dyck_brackets2_length020_n10-0-10_s0"}, r"must be written 'dyck_brackets2_length20_n10-0-10_s0'"),
]
CLOSES = {")": "(", "]": "[", "}": "{", ">": "<"}


def depth_by_stack(brackets: list[str]) -> int:
    """Depth of a balanced word; IndexError or AssertionError if it is not balanced."""
    stack, deepest = [], 0
    for bracket in brackets:
        if bracket in CLOSES or bracket[-1] == ")":
            opened = stack.pop()
            assert opened == CLOSES.get(bracket, f"({bracket[:-1]}")
        else:
            stack.append(bracket)
            deepest = max(deepest, len(stack))
    assert not stack
    return deepest


def all_words(opening: str, length: int, stack: str = "") -> Iterator[str]:
    if len(stack) > length:
        return
    if not length:
        yield ""
        return
    for bracket in opening:
        for rest in all_words(opening, length - 1, stack + bracket):
            yield bracket + rest
    if stack:
        closing = next(bracket for bracket, opened in CLOSES.items() if opened == stack[-1])
        for rest in all_words(opening, length - 1, stack[:-1]):
            yield closing + rest


@pytest.mark.parametrize(
    "fields",
    [
        dict(brackets=2, length=20, train_size=200, validation_size=30, test_size=40),
        dict(brackets=1, length=16, train_size=1000, test_size=430, view="lm"),
        dict(brackets=4, length=70, train_size=150, test_size=50, sampling="balanced", view="lm", seed=3),
        dict(brackets=23, length=500, train_size=20, test_size=10, view="lm"),
        dict(brackets=3, length=12, train_size=500, test_size=100, sampling="balanced", seed=8),
        dict(brackets=5, length=2, train_size=3, test_size=2, view="lm"),
    ],
    ids=lambda fields: f"{fields['brackets']}x{fields['length']}-{fields.get('sampling', 'uniform')}",
)
def test_every_word_is_balanced_and_its_depth_is_that_of_a_stack(tmp_path: Path, fields: dict) -> None:
    config = DyckConfig(**fields)
    spelling = builder_class("dyck").vocabulary(config)
    for rows in rows_of("dyck", tmp_path, **fields).values():
        for row in rows:
            if config.view == "lm":
                *word, sign = row["prompt"].split(" ")
                assert sign == "=" and row["completion"] == f" {depth_by_stack(word)}"
            else:
                word = [spelling[number] for number in row["input_ids"]]
                assert row["labels"] == depth_by_stack(word)
            assert len(word) == config.length and set(word) <= set(spelling[: 2 * config.brackets])


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_all_words_can_be_asked_for(tmp_path: Path, sampling: str) -> None:
    fields = dict(brackets=2, length=8, sampling=sampling, train_size=100, validation_size=24, test_size=100, view="lm")
    splits = rows_of("dyck", tmp_path, **fields)
    words = list(all_words("([", 8))
    assert len(words) == DyckConfig(**fields).words == 14 * 16
    assert sorted(row["prompt"] for rows in splits.values() for row in rows) == sorted(f"{' '.join(word)} =" for word in words)


def test_paths_are_counted_and_numbered_exactly() -> None:
    for pairs in range(1, 8):
        paths = [[bracket == "(" for bracket in word] for word in all_words("(", 2 * pairs)]
        assert catalan(pairs) == len(paths)
        assert path_of_rank(np.arange(len(paths)), pairs, None).tolist() == paths
        for depth in range(1, pairs + 1):
            deep = [path for path in paths if np.cumsum(np.where(path, 1, -1)).max() == depth]
            assert paths_of_depth(pairs, depth) == len(deep)
            assert path_of_rank(np.arange(len(deep)), pairs, depth).tolist() == deep
    # As far as 64 bits go: nothing overflows on the way.
    assert sum(paths_of_depth(35, depth) for depth in range(1, 36)) == catalan(35) > 2**61
    for depth in range(1, 36):
        ends = path_of_rank(np.array([0, paths_of_depth(35, depth) - 1]), 35, depth)
        heights = np.cumsum(np.where(ends, 1, -1), axis=1)
        assert (heights.min(axis=1) == 0).all() and (heights.max(axis=1) == depth).all() and (heights[:, -1] == 0).all()


def test_the_cycle_lemma_makes_every_path_equally_likely() -> None:
    paths = random_paths(random_generator(0), 42_000, pairs=5)
    counts = Counter(map(tuple, paths.tolist()))
    every = [tuple(bracket == "(" for bracket in word) for word in all_words("(", 10)]
    assert set(counts) <= set(every)
    assert chi_square([counts[path] for path in every], [1000] * 42) < 83  # 41 degrees of freedom: 99.99th percentile 81


def test_draws_in_pieces_and_long_paths_are_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_radial.tasks.dyck.SYMBOLS_PER_DRAW", 5000)
    heights = np.cumsum(np.where(random_paths(random_generator(1), 23, pairs=1000), 1, -1), axis=1)
    assert (heights.min(axis=1) == 0).all() and (heights[:, -1] == 0).all()
    assert len(np.unique(heights, axis=0)) == 23


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("brackets", "rows"), [(1, 3), (3, 2)], ids=["by-number", "by-draw"])
def test_every_word_is_equally_likely_in_every_split(split: str, brackets: int, rows: int) -> None:
    """Over seeds; 5 words of one type and length 6, and 2 * 9 words of three types and length 4."""
    length = 6 if brackets == 1 else 4
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(1800):
        config = DyckConfig(brackets=brackets, length=length, train_size=rows - 1, test_size=1, seed=seed)
        seen[tuple(draw_dyck(config)[split][0].tolist())] += 1
    assert len(seen) == (5 if brackets == 1 else 18)
    # 99.99th percentiles for 4 and 17 degrees of freedom: 23.5 and 46.3.
    assert chi_square(list(seen.values()), [1800 / len(seen)] * len(seen)) < (24 if brackets == 1 else 47)


def test_balanced_depths_are_even_as_far_as_there_are_words(tmp_path: Path) -> None:
    fields = dict(brackets=1, length=20, sampling="balanced", train_size=500, test_size=100)
    splits = load_task("dyck", cache_dir=str(tmp_path), **fields)
    counts = Counter(label for split in splits.values() for label in split["labels"])
    exact = [paths_of_depth(10, depth) for depth in range(1, 11)]
    assert (exact[0], exact[8], exact[9]) == (1, 17, 1)
    level = max(counts.values())
    for depth, existing in enumerate(exact, start=1):
        assert counts[depth] == existing or level - 1 <= counts[depth] <= level < existing
    for depth, count in counts.items():
        assert abs(Counter(splits["test"]["labels"])[depth] - count / 6) < 1.5


def test_within_a_depth_every_word_is_equally_likely() -> None:
    """Depth 2 of length 8, one type: 7 paths; one is drawn for each seed (and one of each other depth, if its turn comes)."""
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(1400):
        parts = draw_dyck(DyckConfig(brackets=1, length=8, sampling="balanced", train_size=3, test_size=1, seed=seed))
        for row in np.concatenate(list(parts.values())).tolist():
            if np.cumsum(np.where(np.array(row) == 0, 1, -1)).max() == 2:
                seen[tuple(row)] += 1
    assert len(seen) == 7 and sum(seen.values()) == 1400
    assert chi_square(list(seen.values()), [200] * 7) < 29  # 6 degrees of freedom: 99.99th percentile 27.9


def test_types_are_uniform_and_independent_of_the_path() -> None:
    words = draw_dyck(DyckConfig(brackets=3, length=40, train_size=4000, test_size=1))["train"]
    opened = words[words < 3]
    assert chi_square(np.bincount(opened, minlength=3).tolist(), [len(opened) / 3] * 3) < 19
    first_two = Counter(zip(words[:, 0].tolist(), words[words[:, 1] < 3][:, 1].tolist(), strict=False))
    assert set(first_two) == set(product(range(3), repeat=2))


def test_both_views_have_the_same_rows(tmp_path: Path) -> None:
    fields = dict(brackets=5, length=10, train_size=60, test_size=20)
    numbers, texts = (load_task("dyck", cache_dir=str(tmp_path), view=view, **fields) for view in ("classification", "lm"))
    spelling = builder_class("dyck").vocabulary(DyckConfig(**fields))
    for split in numbers:
        written = [f"{' '.join(spelling[i] for i in row['input_ids'])} = {row['labels']}" for row in numbers[split]]
        assert written == [row["prompt"] + row["completion"] for row in texts[split]]


def test_the_shelf_can_be_read() -> None:
    for name in builder_class("dyck").SHELF:
        assert DyckConfig(name=name).name == name
