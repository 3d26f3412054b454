"""Modular arithmetic: every row against Python's integers, with the formulas written out."""

from __future__ import annotations

from typing import Any

import pytest

from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.load import load_task
from hf_radial.tasks.modular import OPERATIONS, ModularConfig
from hf_radial.tasks.splits import leakage
from hf_radial.tasks.tokenizer import encode, task_tokenizer

pytestmark = pytest.mark.quick

BAD_INPUT: list[tuple[str, dict[str, Any], str]] = [
    (
        "modular",
        {"operation": "div", "p": 91},
        r"p must be prime for operation='div' \(a/b\): 91 is divisible by 7; .* 89 and 97",
    ),
    ("modular", {"operation": "parity_branch", "p": 4}, r"p must be prime .* nearest primes are 3 and 5"),
    ("modular", {"p": 1}, r"p must be a whole number of at least 2, got 1"),
    ("modular", {"p": -5}, r"p must be .* got -5"),
    ("modular", {"p": 97.0}, r"p must be a whole number .* got 97\.0"),
    ("modular", {"p": True}, r"p must be .* got True"),
    ("modular", {"p": 10**6}, r"1,000,000,000,000 rows, but at most 50,000,000 can be made; lower p=1000000"),
    ("modular", {"train_fraction": 0}, r"train_fraction must be a number between 0 and 1, both excluded, got 0"),
    ("modular", {"train_fraction": 1}, r"train_fraction .* got 1"),
    ("modular", {"train_fraction": "half"}, r"train_fraction .* got 'half'"),
    ("modular", {"train_fraction": float("nan")}, r"train_fraction .* got nan"),
    ("modular", {"p": 3, "train_fraction": 0.01}, r"train_fraction=0\.01 leaves the split 'train' of 9 rows empty; raise it"),
    ("modular", {"p": 3, "train_fraction": 0.99}, r"train_fraction=0\.99 leaves the split 'test' of 9 rows empty; lower it"),
    ("modular", {"validation_fraction": 0.5}, r"leaves the split 'test' of 9409 rows empty; lower it"),
    ("modular", {"validation_fraction": 1e-6}, r"validation_fraction=1e-06 leaves the split 'validation' of 9409 rows empty"),
    ("modular", {"validation_fraction": -0.1}, r"validation_fraction must be a number between 0 and 1, which is excluded"),
    ("modular", {"operation": "a^2+b"}, r"operation='a\^2\+b' is unknown; did you mean .*'a\^2\+b\^2'"),
    ("modular", {"operation": "subb"}, r"operation='subb' is unknown; did you mean 'sub'"),
    ("modular", {"operation": None}, r"operation=None is unknown.* add, sub"),
    ("modular", {"commutative": "apart"}, r"commutative='apart' is unknown\. There are: split, together"),
    ("modular", {"view": "text"}, r"view='text' is unknown"),
    ("modular", {"seed": -1}, r"seed must be a whole number of at least 0, got -1"),
    ("modular", {"modulus": 97}, r"task 'modular': field='modulus' is unknown.* p,"),
    ("modular", {"config": "add_p97"}, r"'add_p97' is not a configuration of this task; one is 'add_p97_f0\.5_s0'"),
    ("modular", {"config": "add_p097_f0.5_s0"}, r"the configuration 'add_p097_f0\.5_s0' must be written 'add_p97_f0\.5_s0'"),
    ("modular", {"config": "add_p97_f0.5_s0", "p": 11}, r"p=11 contradicts the name 'add_p97_f0\.5_s0'"),
    ("modular", {"config": "div_p96_f0.5_s0"}, r"p must be prime"),
    ("moduler", {}, r"task='moduler' is unknown; did you mean 'modular'"),
]


def by_hand(operation: str, a: int, b: int, c: int, p: int) -> int:
    """The answer, with Python's integers and its own inverse."""
    if operation == "parity_branch":
        return by_hand("div" if b % 2 else "sub", a, b, c, p)
    if operation == "div":
        return next(x for x in range(p) if x * b % p == a)
    formulas = {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "a2_b2": a**2 + b**2,
        "a2_ab_b2": a**2 + a * b + b**2,
        "a2_ab_b2_a": a**2 + a * b + b**2 + a,
        "a3_ab": a**3 + a * b,
        "a3_ab2_b": a**3 + a * b**2 + b,
        "add3": a + b + c,
    }
    return formulas[operation] % p


@pytest.mark.parametrize("commutative", ["split", "together"])
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "random"])
def test_every_row_is_what_the_formula_says_and_every_row_comes_once(tmp_path, operation, commutative):
    p = {"add3": 7, "mul": 12, "add": 2}.get(operation, 13)
    splits = load_task(
        "modular",
        operation=operation,
        p=p,
        train_fraction=0.37 if p > 2 else 0.5,
        seed=5,
        commutative=commutative,
        cache_dir=str(tmp_path),
    )
    rows = [row for split in splits.values() for row in split]
    for row in rows:
        a, b, *c = row["input_ids"]
        assert row["labels"] == by_hand(operation, a, b, c[0] if c else 0, p)
    seen = sorted(tuple(row["input_ids"]) for row in rows)
    operands = 3 if operation == "add3" else 2
    every = [()]
    for position in range(operands):
        first = 1 if operation == "div" and position == 1 else 0
        every = [(*row, x) for row in every for x in range(first, p)]
    assert seen == every
    assert splits["train"].num_rows == int(len(every) * (0.37 if p > 2 else 0.5) + 0.5)


def test_the_largest_modulus_of_each_operation_does_not_overflow():
    import numpy as np

    for name, operation in OPERATIONS.items():
        if name == "random":
            continue
        p = 7069  # the largest prime whose table can be made
        assert ModularConfig(operation="add", p=p).rows <= 50_000_000
        rng = np.random.default_rng(0)
        a, b, c = (np.concatenate([[p - 1, 1], rng.integers(1, p, size=200)]) for _ in range(3))
        operands = (a, b, c)[: operation.operands]
        answers = operation.compute(*operands, p)
        for row in range(len(a)):
            expected = by_hand(name, int(a[row]), int(b[row]), int(c[row]), p)
            assert answers[row] == expected, (name, a[row], b[row])


def test_the_language_view_has_the_rows_of_the_other_as_text(tmp_path):
    fields: dict[str, Any] = {"operation": "a^2+ab+b^2", "p": 11, "seed": 2, "cache_dir": str(tmp_path)}
    classes, texts = load_task("modular", **fields), load_task("modular", view="lm", **fields)
    tokenizer = task_tokenizer("modular", operation="a^2+ab+b^2", p=11, view="lm")
    for split in ("train", "test"):
        for one, two in zip(classes[split], texts[split], strict=True):
            assert [two["a"], two["b"]] == one["input_ids"]
            assert two["prompt"] == f"{two['a']} o {two['b']} =" and two["completion"] == f" {one['labels']}"
            # A number is its own token, and the text comes back.
            ids = tokenizer(two["prompt"] + two["completion"])["input_ids"]
            assert ids == [two["a"], 11, two["b"], 12, one["labels"]]
            assert tokenizer.decode(ids) == two["prompt"] + two["completion"]
    encoded = encode(texts["test"][:3], tokenizer)
    for ids, labels in zip(encoded["input_ids"], encoded["labels"], strict=True):
        assert labels[:4] == [-100] * 4 and labels[4:] == ids[4:] and ids[5] == tokenizer.eos_token_id


def test_random_labels_are_uniform_and_those_of_the_seed(tmp_path):
    splits = {
        seed: load_task("modular", operation="random", p=53, train_fraction=0.4, seed=seed, cache_dir=str(tmp_path))
        for seed in (0, 1)
    }
    tables = {
        seed: {tuple(row["input_ids"]): row["labels"] for split in parts.values() for row in split}
        for seed, parts in splits.items()
    }
    counts = [list(tables[0].values()).count(label) for label in range(53)]
    assert sum((count - 53) ** 2 / 53 for count in counts) < 52 + 5 * (2 * 52) ** 0.5
    agree = sum(tables[0][pair] == tables[1][pair] for pair in tables[0])
    mirrored = sum(tables[0][a, b] == tables[0][b, a] for a, b in tables[0] if a < b)
    assert agree < 2 * 53 and mirrored < 2 * 53 / 2
    # The label belongs to the pair, not to its place: other fractions have the same labels.
    other = load_task("modular", operation="random", p=53, train_fraction=0.8, seed=0, cache_dir=str(tmp_path))
    assert all(tables[0][tuple(row["input_ids"])] == row["labels"] for row in other["train"])


def test_together_leaks_nothing_and_split_leaks_what_is_counted(tmp_path):
    for operation in ("a+b", "a-b", "a+b+c"):
        fields: dict[str, Any] = {"operation": operation, "p": 9, "cache_dir": str(tmp_path)}
        assert leakage(load_task("modular", commutative="together", **fields)) == {"ordered": 0, "commuted": 0}
        splits = load_task("modular", validation_fraction=0.2, **fields)
        sets = [{tuple(row["input_ids"]) for row in split} for split in splits.values()]
        commuted = sum(
            any(sorted(row) == sorted(other) for earlier in sets[:j] for other in earlier) for j in (1, 2) for row in sets[j]
        )
        assert leakage(splits) == {"ordered": 0, "commuted": commuted} and commuted > 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"operation": "a/b", "train_fraction": 0.25, "validation_fraction": 0.125, "seed": 7},
        {"operation": "a+b+c", "p": 5, "commutative": "together", "view": "lm"},
        {"operation": "random", "p": 1009, "train_fraction": 1 / 3, "validation_fraction": 1e-05},
    ],
)
def test_a_name_says_everything_and_can_be_read_back(fields):
    config = ModularConfig(**fields)
    again = ModularConfig(name=config.name)
    assert again == config and again.options() == config.options()


def test_a_stream_has_the_rows_of_the_cache(tmp_path):
    for config in ("add_p331_f0.3_v0.1_s3_together", "mul_p331_f0.3_s3_lm"):
        cached = load_task("modular", config, cache_dir=str(tmp_path))
        stream = load_task("modular", config, cache_dir=str(tmp_path), streaming=True)
        assert {split: checksum(rows) for split, rows in cached.items()} == {s: checksum(rows) for s, rows in stream.items()}
        assert stream["test"].num_shards == 1 and cached["train"].features == stream["train"].features
