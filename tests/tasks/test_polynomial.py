"""Polynomials mod p: every row against Python's integers, and its text as Python evaluates it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.load import load_task, task_builder, task_config
from hf_radial.tasks.polynomial import PolynomialConfig, PolynomialEvaluation
from hf_radial.tasks.splits import leakage
from hf_radial.tasks.tokenizer import encode, task_tokenizer

BAD_INPUT: list[tuple[str, dict[str, Any], str]] = [
    ("polynomial", {"degree": 0}, r"degree must be a whole number from 1 to 23, got 0"),
    ("polynomial", {"degree": 24, "p": 2}, r"degree must be a whole number from 1 to 23, got 24"),
    ("polynomial", {"degree": 1.5}, r"degree must be a whole number"),
    ("polynomial", {"p": 1}, r"p must be a whole number of at least 2, got 1"),
    ("polynomial", {"p": 369}, r"50,243,409 rows, but at most 50,000,000 can be made; lower p=369 or degree=1"),
    ("polynomial", {"degree": 2, "p": 97}, r"88,529,281 rows"),
    ("polynomial", {"commutative": "together"}, r"commutative='together' is not for polynomials: .*leave it at 'split'"),
    ("polynomial", {"config": "poly1_p31_f0.5_s0_together"}, r"commutative='together' is not for polynomials"),
    ("polynomial", {"config": "poly_p31_f0.5_s0"}, r"not a configuration of this task; one is 'poly1_p31_f0.5_s0'"),
    ("polynomial", {"config": "poly1_p031_f0.5_s0"}, r"must be written 'poly1_p31_f0.5_s0'"),
    ("polynomial", {"config": "poly1_p31_f0.5_s0", "p": 7}, r"p=7 contradicts the name"),
    ("polynomial", {"p": 2, "train_fraction": 0.05}, r"leaves the split 'train' of 8 rows empty"),
]

CONFIGS = [(1, 13), (1, 12), (1, 2), (2, 7), (2, 6), (3, 4), (4, 3), (8, 2)]


@pytest.mark.parametrize(("degree", "p"), CONFIGS)
def test_every_polynomial_has_its_value_at_every_point(tmp_path: Path, degree: int, p: int) -> None:
    rows = load_task("polynomial", degree=degree, p=p, train_fraction=0.3, validation_fraction=0.1, cache_dir=str(tmp_path))
    seen = set()
    for row in itertools.chain(*rows.values()):
        *coefficients, x = row["input_ids"]
        powers = [x**exponent for exponent in range(degree, -1, -1)]
        assert row["labels"] == sum(c * power for c, power in zip(coefficients, powers, strict=True)) % p
        seen.add((*coefficients, x))
    assert seen == set(itertools.product(range(p), repeat=degree + 2))
    total = p ** (degree + 2)
    train, validation = int(total * 0.3 + 0.5), int(total * 0.1 + 0.5)
    assert {split: len(part) for split, part in rows.items()} == {
        "train": train,
        "validation": validation,
        "test": total - train - validation,
    }


@pytest.mark.parametrize(("degree", "p"), CONFIGS)
def test_the_text_read_as_python_gives_the_completion(tmp_path: Path, degree: int, p: int) -> None:
    rows = load_task("polynomial", degree=degree, p=p, view="lm", cache_dir=str(tmp_path))
    names = [*(f"c{i}" for i in range(degree, -1, -1)), "x"]
    for row in itertools.chain(*rows.values()):
        polynomial, point = row["prompt"].removesuffix(" =").split(" at ")
        terms = polynomial.split(" + ")
        assert len(terms) == degree + 1
        formula = "+".join(term.replace("^", "**").replace(" ", "*") for term in terms)
        assert row["completion"] == f" {eval(formula, {'x': int(point)}) % p}"
        assert [int(number) for term in terms for number in term.split()[:1]] + [int(point)] == [row[name] for name in names]
    assert rows["train"].column_names == [*names, "prompt", "completion"]


@pytest.mark.parametrize(("degree", "p"), [(1, 368), (3, 34), (22, 2), (7, 7)])
def test_the_largest_tables_have_the_right_values_at_random_rows(degree: int, p: int) -> None:
    builder = task_builder("polynomial", degree=degree, p=p)
    rows = np.random.default_rng(0).integers(0, builder.config.rows, 2000)
    operands = builder.operands(rows)
    for number, (*coefficients, x), answer in zip(rows, operands.tolist(), builder.answers(rows, operands), strict=True):
        digits = [*coefficients, x]
        assert sum(digit * p**i for i, digit in enumerate(reversed(digits))) == number
        assert answer == sum(c * x**i for i, c in enumerate(reversed(coefficients))) % p


@pytest.mark.parametrize("name", [*PolynomialEvaluation.SHELF, "poly4_p6_f0.25_v0.125_s7_lm"])
def test_a_name_gives_the_fields_and_the_fields_the_name(name: str) -> None:
    config = PolynomialConfig(name=name)
    assert PolynomialConfig(**config.options()).name == config.name == name
    assert task_config("polynomial", degree=2, p=5).name == "poly2_p5_f0.5_s0"


@pytest.mark.parametrize("fields", [{"p": 53}, {"degree": 2, "p": 5, "view": "lm"}])
def test_a_stream_has_the_rows_of_the_cache(tmp_path: Path, fields: dict[str, Any]) -> None:
    cached = load_task("polynomial", cache_dir=str(tmp_path), **fields)
    streamed = load_task("polynomial", streaming=True, **fields)
    for split, rows in cached.items():
        assert checksum(rows) == checksum(streamed[split])


@pytest.mark.parametrize(("degree", "p"), [(1, 5), (3, 4)])
def test_texts_come_back_from_the_tokenizer_and_residues_are_their_own_tokens(tmp_path: Path, degree: int, p: int) -> None:
    tokenizer = task_tokenizer("polynomial", degree=degree, p=p, view="lm")
    rows = load_task("polynomial", degree=degree, p=p, view="lm", cache_dir=str(tmp_path))["test"][:]
    for i, ids in enumerate(encode(rows, tokenizer)["input_ids"]):
        text = rows["prompt"][i] + rows["completion"][i]
        assert tokenizer.decode(ids[:-1]) == text
        assert [token for token in ids if token < p] == [int(word) for word in text.split() if word.isdigit()]


def test_other_orders_of_the_operands_are_counted_only_where_asked(tmp_path: Path) -> None:
    rows = load_task("polynomial", p=7, cache_dir=str(tmp_path))
    assert leakage(rows, reorderings=False) == {"ordered": 0}
    assert leakage(rows)["commuted"] > 0
    leaking = {"train": rows["train"], "test": rows["train"].select(range(10))}
    assert leakage(leaking, reorderings=False) == {"ordered": 10}


def test_at_degree_one_the_slope_and_the_point_can_change_places(tmp_path: Path) -> None:
    """The symmetry that the docstring names is there, and no other: a model can do with half of a table."""
    for degree in (1, 2):
        rows = load_task("polynomial", degree=degree, p=5, cache_dir=str(tmp_path))
        value = {(*row["input_ids"],): row["labels"] for row in itertools.chain(*rows.values())}
        symmetries = [
            order
            for order in itertools.permutations(range(degree + 2))
            if all(value[tuple(operands[i] for i in order)] == answer for operands, answer in value.items())
        ]
        assert symmetries == ([(0, 1, 2), (2, 1, 0)] if degree == 1 else [(0, 1, 2, 3)])
