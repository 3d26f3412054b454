"""Copy, reverse and sort: every answer against a list, the rows of each length, and splits of longer sequences."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from sized_tasks import chi_square, rows_of

from hf_radial.tasks.load import builder_class
from hf_radial.tasks.sequences import END, SequencesConfig, draw_sequences

BAD_INPUT = [
    ("sequences", {"operation": "shuffle"}, r"operation='shuffle' is unknown\. There are: copy, reverse, sort"),
    ("sequences", {"view": "classification"}, r"view='classification' is unknown\. There are: lm"),
    ("sequences", {"vocabulary_size": 1}, r"vocabulary_size must be a whole number from 2 to 60000"),
    ("sequences", {"min_length": 0}, r"min_length must be a whole number from 1 to 1000"),
    ("sequences", {"max_length": 1001}, r"max_length must be a whole number from 1 to 1000"),
    ("sequences", {"min_length": 5, "max_length": 4}, r"max_length=4 is below min_length=5; raise it"),
    ("sequences", {"longer_length": 10}, r"longer_length=10 must be above max_length=10, or 0"),
    ("sequences", {"vocabulary_size": 3, "max_length": 4}, r"only 120 different ones; lower them, or raise max_length=4"),
    ("sequences", {"max_length": 1000, "train_size": 10**7}, r"lower train_size, validation_size or test_size, or the lengths"),
    ("sequences", {"config": "copy_v10_l1-10-0_n1000-0-1000_s0"}, r"must be written 'copy_v10_l1-10_n1000-0-1000_s0'"),
    ("sequences", {"config": "sort_v10_n1000-0-1000_s0"}, r"is not a configuration of this task"),
    ("sequences", {"config": "sort_v10_l1-10_n9-0-9_s0", "operation": "reverse"}, r"operation='reverse' contradicts the name"),
]
ANSWERS = {"copy": list, "reverse": lambda symbols: symbols[::-1], "sort": sorted}


@pytest.mark.parametrize(
    "fields",
    [
        dict(operation="copy", train_size=300, validation_size=50, test_size=40, longer_length=13),
        dict(operation="reverse", vocabulary_size=1000, min_length=3, max_length=7, train_size=200, test_size=30, seed=4),
        dict(
            operation="sort", vocabulary_size=60_000, min_length=2, max_length=30, longer_length=31, train_size=90, test_size=30
        ),
        dict(operation="sort", vocabulary_size=2, max_length=7, train_size=200, test_size=54, longer_length=8),
        dict(operation="reverse", vocabulary_size=5, min_length=1, max_length=1, train_size=3, test_size=2, longer_length=2),
    ],
    ids=lambda fields: f"{fields['operation']}-v{fields.get('vocabulary_size', 10)}",
)
def test_every_answer_and_the_lengths(tmp_path: Path, fields: dict) -> None:
    config = SequencesConfig(**fields)
    lengths: Counter[int] = Counter()
    longer = range(config.max_length + 1, config.longer_length + 1)
    splits = rows_of("sequences", tmp_path, **fields)
    assert set(splits) - {"train", "validation", "test"} == {f"test_length_{length}" for length in longer}
    for split, rows in splits.items():
        for row in rows:
            prompt, completion = row["prompt"], row["completion"]
            assert prompt.endswith(" =") and completion.startswith(" ")
            symbols = [int(symbol) for symbol in prompt[:-2].split(" ")]
            assert all(0 <= symbol < config.vocabulary_size for symbol in symbols)
            assert [int(symbol) for symbol in completion[1:].split(" ")] == ANSWERS[config.operation](symbols)
            if split.startswith("test_length_"):
                assert len(symbols) == int(split.removeprefix("test_length_"))
            else:
                lengths[len(symbols)] += 1
    # Evenly, but for lengths with too few sequences: give one row at a time to the length that has fewest.
    expected = Counter({length: 0 for length in range(config.min_length, config.max_length + 1)})
    for _ in range(sum(lengths.values())):
        room = [length for length in expected if expected[length] < config.vocabulary_size**length]
        expected[min(room, key=lambda length: (expected[length], -length))] += 1
    assert lengths == +expected


def test_each_split_has_its_share_of_every_length() -> None:
    config = SequencesConfig(train_size=800, validation_size=100, test_size=100)
    parts = draw_sequences(config)
    counts = {split: Counter((rows != END).sum(axis=1).tolist()) for split, rows in parts.items()}
    for length, share in zip(range(1, 11), config.shares, strict=True):
        for split, size in config.drawn_together.items():
            assert abs(counts[split][length] - share * size / 1000) < 1.5


def test_lengths_come_in_random_order() -> None:
    rows = draw_sequences(SequencesConfig(min_length=4, max_length=5, train_size=400, test_size=400))
    for part in rows.values():
        lengths = (part != END).sum(axis=1)
        # Runs of one length: 201 are expected of 400 in random order, two or so of strata one after the other.
        assert 150 < 1 + (lengths[1:] != lengths[:-1]).sum() < 250


def test_all_sequences_can_be_asked_for(tmp_path: Path) -> None:
    fields = dict(
        operation="sort", vocabulary_size=3, min_length=2, max_length=4, train_size=60, validation_size=30, test_size=27
    )
    splits = rows_of("sequences", tmp_path, **fields)
    prompts = [row["prompt"] for rows in splits.values() for row in rows]
    assert sorted(prompts) == sorted(" ".join(word) + " =" for length in (2, 3, 4) for word in product("012", repeat=length))


@pytest.mark.parametrize("split", ["train", "test", "test_length_3"])
def test_within_a_length_every_sequence_is_equally_likely(split: str) -> None:
    """Over seeds. Of length 2, 9 sequences, dealt by number; of length 3, 27, drawn."""
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(2700):
        config = SequencesConfig(
            vocabulary_size=3, min_length=2, max_length=2, longer_length=3, train_size=2, test_size=1, seed=seed
        )
        seen[tuple(draw_sequences(config)[split][0].tolist())] += 1
    words = list(product(range(3), repeat=3 if split.startswith("test_") else 2))
    limit = 66 if len(words) == 27 else 33  # 99.99th percentiles for 26 and 8 degrees of freedom: 62.6 and 31.8
    assert set(seen) <= set(words)
    assert chi_square([seen[word] for word in words], [2700 / len(words)] * len(words)) < limit


def test_the_operations_have_the_same_prompts(tmp_path: Path) -> None:
    copied, sorted_ = (
        rows_of("sequences", tmp_path, operation=operation, train_size=50, test_size=20, seed=2)
        for operation in ("copy", "sort")
    )
    assert [row["prompt"] for row in copied["test"]] == [row["prompt"] for row in sorted_["test"]]


def test_the_shelf_can_be_read() -> None:
    for name in builder_class("sequences").SHELF:
        assert SequencesConfig(name=name).name == name
