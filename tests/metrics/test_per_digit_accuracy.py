"""The per_digit_accuracy module: against plain loops over written numbers, as ids and as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_radial.metrics import load_per_digit_accuracy

pytestmark = pytest.mark.quick

END = 11


@pytest.fixture(scope="module")
def metric() -> Any:
    return load_per_digit_accuracy()


def slow(right_by_place: dict[int, list[bool]]) -> dict[str, Any]:
    places = sorted(right_by_place)
    accuracy = [sum(right_by_place[k]) / len(right_by_place[k]) for k in places]
    assert places == list(range(len(places)))
    counts = [len(right_by_place[k]) for k in places]
    return {"digit_accuracy": accuracy, "digit_count": counts, "mean_digit_accuracy": sum(accuracy) / len(accuracy)}


def spelt(number: int, reverse: bool) -> str:
    return str(number)[::-1] if reverse else str(number)


def same(result: dict[str, Any], expected: dict[str, Any]) -> bool:
    return result.keys() == expected.keys() and all(result[name] == pytest.approx(expected[name]) for name in expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_written_numbers_are_compared_place_by_place_by_division(metric: Any, reverse: bool) -> None:
    """The reference knows nothing of strings: the digit at 10**k is number // 10**k % 10."""
    rng = np.random.default_rng(0)
    for rows in (1, 5, 300):
        right = [int(rng.integers(0, 10 ** rng.integers(1, 6))) for _ in range(rows)]
        wrong = [int(rng.integers(0, 10 ** rng.integers(1, 6))) for _ in range(rows)]
        written = [a if rng.random() < 0.4 else b for a, b in zip(right, wrong, strict=True)]
        by_place: dict[int, list[bool]] = {}
        for a, b in zip(right, written, strict=True):
            for k in range(len(str(a))):
                there = k < len(str(b))
                by_place.setdefault(k, []).append(there and a // 10**k % 10 == b // 10**k % 10)
        result = metric.compute(
            predictions=[spelt(n, reverse) for n in written], references=[spelt(n, reverse) for n in right], reverse=reverse
        )
        assert same(result, slow(by_place))


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_ids_of_any_length_with_prompts_padding_and_end_signs(metric: Any, reverse: bool) -> None:
    rng = np.random.default_rng(1)
    predictions, references, by_place = [], [], {}
    for _ in range(200):
        length, before, behind = rng.integers(0, 5), rng.integers(0, 4), rng.integers(0, 3)
        digits = rng.integers(0, 10, length).tolist()
        guess = [d if rng.random() < 0.6 else int(rng.integers(0, 12)) for d in digits]
        references.append([-100] * before + digits + [END] + [-100] * behind)
        predictions.append(rng.integers(0, 12, before).tolist() + guess + rng.integers(0, 12, behind + 1).tolist())
        for k in range(length):
            i = k if reverse else length - 1 - k
            by_place.setdefault(k, []).append(guess[i] == digits[i])
    result = metric.compute(predictions=predictions, references=references, reverse=reverse, ignore_ids=[END])
    assert same(result, slow(by_place))


def test_what_counts_is_what_the_reference_says(metric: Any) -> None:
    rows = {"predictions": [[5, 3, 11], [4, 11, 0]], "references": [[5, 3, 11], [4, 2, 11]]}
    # An end sign in place of a digit is a wrong digit; a digit in place of the end sign is not looked at.
    assert metric.compute(**rows, reverse=True, ignore_ids=[END])["digit_accuracy"] == [1.0, 0.5]
    assert metric.compute(**rows, reverse=False, ignore_ids=[END])["digit_accuracy"] == [0.5, 1.0]
    # Not told of it, the end sign is the "digit" at the far end.
    assert metric.compute(**rows, reverse=True)["digit_count"] == [2, 2, 2]


def test_arrays_and_tensors_are_rows_too(metric: Any) -> None:
    import torch

    rng = np.random.default_rng(2)
    predictions, references = rng.integers(0, 3, (2, 20, 4))
    expected = slow({k: (predictions[:, k] == references[:, k]).tolist() for k in range(4)})
    assert same(metric.compute(predictions=predictions, references=references, reverse=True), expected)
    tensors = {"predictions": torch.tensor(predictions), "references": torch.tensor(references)}
    assert same(metric.compute(**tensors, reverse=True), expected)


def test_batches_added_to_two_instances_in_turn_stay_apart_and_kinds_may_change(metric: Any) -> None:
    other = load_per_digit_accuracy(keep_in_memory=True)
    for written in ("12", "22"):
        metric.add_batch(predictions=[written], references=["12"])
        other.add_batch(predictions=[[1, 2]], references=[[1, 3]])
    assert metric.compute(reverse=False)["digit_accuracy"] == [1.0, 0.5]
    assert other.compute(reverse=True)["digit_accuracy"] == [1.0, 0.0]
    assert metric.compute(predictions=[[4]], references=[[4]], reverse=False)["digit_count"] == [1]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (([[1]], [[1]]), {}, r"reverse=None must be True if answers are written units first"),
        (([[1]], [[1]]), {"reverse": "yes"}, r"reverse='yes'"),
        (([[1, 2], [1, 2]], [[1, 2], [1]]), {"reverse": True}, r"row 1 of predictions has 2 .* references has 1"),
        (([[1], [2]], [[1]]), {"reverse": True}, r"predictions \(2\) and references \(1\)"),
        (([[1]], [[-100]]), {"reverse": True}, r"references have no digit that counts"),
        (([[11]], [[11]]), {"reverse": True, "ignore_ids": [11]}, r"ignore_ids=\[11\]"),
        (([], []), {"reverse": True}, r"predictions \(0\) and references \(0\)"),
        ((["1"], ["1$"]), {"reverse": True}, r"references must be digits .* row 0 is '1\$'"),
        ((["1"], ["-1"]), {"reverse": False}, r"row 0 is '-1'"),
        ((["1"], ["1"]), {"reverse": True, "ignore_ids": [3]}, r"ignore_ids are for rows of token ids"),
        (([""], [""]), {"reverse": True}, r"no digit that counts"),
        ((["1"], [[1]]), {"reverse": True}, r"don't match the expected format"),
    ],
)
def test_bad_input_is_named_and_the_module_works_on(metric: Any, rows: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=rows[0], references=rows[1], **options)
    assert metric.compute(predictions=["3"], references=["3"], reverse=True)["digit_accuracy"] == [1.0]


def test_it_sees_the_digits_that_the_task_writes(metric: Any) -> None:
    """`reverse` means what it means in the addition task, with and without zeros in front."""
    from hf_radial.tasks.digits.text import spell

    a, b = np.random.default_rng(3).integers(0, 10, (2, 50, 3)).astype(np.uint8)
    for reverse in (False, True):
        for zero_pad in (False, True):
            answers = spell("add", a, b, reverse, zero_pad)[1].to_pylist()
            unit = 0 if reverse else -1
            written = [a[1:] if reverse else a[:-1] for a in answers]
            written = ["x" + a if reverse else a + "x" for a in written]  # all right but the units
            assert all(a[unit] == "x" for a in written)
            result = metric.compute(predictions=written, references=answers, reverse=reverse)
            assert result["digit_accuracy"] == [0.0] + [1.0] * (len(result["digit_count"]) - 1)
            assert (result["digit_count"] == [50] * 4) is zero_pad
