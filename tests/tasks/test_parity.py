"""Sparse parity: every label against a count of ones, the secret recovered by search, noise only in training labels."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from pathlib import Path

import pytest
from sized_tasks import chi_square, rows_of

from hf_radial.tasks.load import builder_class, load_task, task_builder
from hf_radial.tasks.parity import ParityConfig, draw_parity

pytestmark = pytest.mark.quick

BAD_INPUT = [
    ("sparse_parity", {"bits": 0}, r"bits must be a whole number from 1 to 100000, got 0"),
    ("sparse_parity", {"bits": 10, "k": 11}, r"k must be a whole number from 1 to 10, got 11"),
    ("sparse_parity", {"k": 2.0}, r"k must be a whole number"),
    ("sparse_parity", {"noise": 1.0}, r"noise must be a number between 0 and 1"),
    ("sparse_parity", {"noise": 0.6}, r"noise must be at most 0\.5"),
    ("sparse_parity", {"bits": 10}, r"only 1024 different ones; lower them or raise bits=10"),
    ("sparse_parity", {"bits": 100_000, "train_size": 50_000}, r"lower train_size, validation_size or test_size, or bits"),
    ("sparse_parity", {"view": "text"}, r"view='text' is unknown"),
    ("sparse_parity", {"train_size": 0}, r"train_size must be a whole number of at least 1"),
    ("sparse_parity", {"config": "parity_bits40_k3"}, r"is not a configuration of this task; one is 'parity_bits40"),
    (
        "sparse_parity",
        {"config": "parity_bits40_k3_noise0.10_n10-0-10_s0"},
        r"must be written 'parity_bits40_k3_noise0.1_n10-0-10_s0'",
    ),
    ("sparse_parity", {"PATTERN": "p"}, r"field='PATTERN' is unknown"),
    ("sparse_parity", {"n": 40}, r"field='n' is unknown"),
]


@pytest.mark.parametrize(
    "fields",
    [
        dict(bits=40, k=3, train_size=200, test_size=100),
        dict(bits=40, k=3, train_size=200, test_size=100, view="lm"),
        dict(bits=1000, k=7, train_size=30, validation_size=20, test_size=10, seed=5),
        dict(bits=70, k=70, train_size=50, test_size=50, view="lm"),
        dict(bits=1, k=1, train_size=1, test_size=1),
        dict(bits=12, k=1, train_size=2000, validation_size=96, test_size=2000, noise=0.25, seed=3),
        dict(bits=9, k=4, train_size=80, test_size=20, noise=1e-05, view="lm", seed=2**40),
    ],
    ids=lambda fields: f"bits{fields['bits']}-k{fields['k']}-{fields.get('view', 'classification')}",
)
def test_every_label_is_the_parity_of_the_secret_bits(tmp_path: Path, fields: dict) -> None:
    config = ParityConfig(**fields)
    secret = config.relevant
    assert len(set(secret)) == config.k and list(secret) == sorted(secret) and set(secret) <= set(range(config.bits))
    for split, rows in rows_of("sparse_parity", tmp_path, **fields).items():
        wrong = 0
        for row in rows:
            if config.view == "lm":
                *bits, sign = row["prompt"].split(" ")
                assert sign == "="
                bits, label = [int(bit) for bit in bits], {" 0": 0, " 1": 1}[row["completion"]]
            else:
                bits, label = row["input_ids"], row["labels"]
            assert len(bits) == config.bits and set(bits) <= {0, 1}
            wrong += label != (1 if [bits[i] for i in secret].count(1) in range(1, config.k + 1, 2) else 0)
        # Six standard deviations.
        mean, deviation = len(rows) * config.noise, (len(rows) * config.noise * (1 - config.noise)) ** 0.5
        assert wrong == 0 if split != "train" else abs(wrong - mean) <= 6 * deviation


def test_the_secret_is_found_by_search_and_is_the_one_that_is_told(tmp_path: Path) -> None:
    builder = task_builder("sparse_parity", bits=12, k=3, train_size=100, test_size=100, seed=7, cache_dir=str(tmp_path))
    rows = load_task("sparse_parity", builder.config.name, cache_dir=str(tmp_path))["train"]
    consistent = [
        positions
        for positions in combinations(range(12), 3)
        if all(
            sum(bits[i] for i in positions) % 2 == label for bits, label in zip(rows["input_ids"], rows["labels"], strict=True)
        )
    ]
    assert consistent == [builder.config.relevant]
    assert str(list(builder.config.relevant)) in builder.info.description


def test_the_secret_depends_on_seed_bits_and_k_alone() -> None:
    one = ParityConfig(bits=30, k=4, seed=1)
    assert one.relevant == ParityConfig(bits=30, k=4, seed=1, noise=0.2, train_size=5, test_size=7, view="lm").relevant
    assert one.relevant != ParityConfig(bits=30, k=4, seed=2).relevant
    found = Counter(ParityConfig(bits=5, k=2, train_size=8, test_size=8, seed=seed).relevant for seed in range(1000))
    # 10 subsets: 9 degrees of freedom, of which 35 is the 99.99th percentile.
    assert chi_square([found[subset] for subset in combinations(range(5), 2)], [100] * 10) < 35


def test_the_whole_cube_can_be_asked_for(tmp_path: Path) -> None:
    splits = rows_of("sparse_parity", tmp_path, bits=10, k=3, train_size=512, validation_size=256, test_size=256)
    rows = [tuple(row["input_ids"]) for split in splits.values() for row in split]
    assert sorted(rows) == sorted(product((0, 1), repeat=10))


@pytest.mark.parametrize("bits", [3, 5], ids=["by-number", "by-draw"])
def test_every_row_is_equally_likely_in_every_split_whatever_the_secret(bits: int) -> None:
    """Over seeds, as rows of one draw are not independent. Secret and rows share a stream, and must not know each other."""
    first, last, jointly = Counter(), Counter(), Counter()
    for seed in range(2000):
        config = ParityConfig(bits=bits, k=1, train_size=2, test_size=1, seed=seed)
        parts = draw_parity(config)
        first[tuple(parts["train"][0][0].tolist())] += 1
        last[tuple(parts["test"][0][0].tolist())] += 1
        jointly[config.relevant, tuple(parts["train"][0][0].tolist())] += 1
    cube = list(product((0, 1), repeat=bits))
    limit = {3: 31, 5: 74}[bits]  # 99.99th percentiles for 7 and 31 degrees of freedom: 29.9, 71.0
    for counts in (first, last):
        assert chi_square([counts[row] for row in cube], [2000 / len(cube)] * len(cube)) < limit
    # 23 and 159 degrees of freedom: 57 and 234.
    cells = [jointly[(position,), row] for position in range(bits) for row in cube]
    assert chi_square(cells, [2000 / len(cells)] * len(cells)) < {3: 60, 5: 240}[bits]


def test_noise_changes_training_labels_and_nothing_else() -> None:
    clean, noisy = (draw_parity(ParityConfig(bits=20, train_size=3000, test_size=500, noise=noise)) for noise in (0, 0.5))
    for split in ("train", "test"):
        assert (clean[split][0] == noisy[split][0]).all()
    assert (clean["test"][1] == noisy["test"][1]).all()
    assert 1300 < (clean["train"][1] != noisy["train"][1]).sum() < 1700


def test_both_views_have_the_same_rows(tmp_path: Path) -> None:
    fields = dict(bits=17, k=2, train_size=60, test_size=20, noise=0.1)
    numbers = load_task("sparse_parity", cache_dir=str(tmp_path), **fields)
    texts = load_task("sparse_parity", cache_dir=str(tmp_path), view="lm", **fields)
    for split in numbers:
        written = [f"{' '.join(map(str, row['input_ids']))} = {row['labels']}" for row in numbers[split]]
        assert written == [row["prompt"] + row["completion"] for row in texts[split]]


def test_the_shelf_can_be_read() -> None:
    for name in builder_class("sparse_parity").SHELF:
        assert ParityConfig(name=name).name == name
