"""The exact_match module: against plain loops, offline, and with several in use at the same time."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from warm import run_python

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def rows_on_disk_go_to_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """For the instances that do not keep their rows in memory."""
    import evaluate.config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path_factory.mktemp("metrics"))
        yield


def slow_exact_match(predictions: list[list[int]], references: list[list[int]]) -> dict[str, float]:
    rows, tokens = [], []
    for predicted, expected in zip(predictions, references, strict=True):
        right = [p == e for p, e in zip(predicted, expected, strict=True) if e != -100]
        tokens += right
        if right:
            rows.append(all(right))
    return {"exact_match": sum(rows) / len(rows), "token_accuracy": sum(tokens) / len(tokens)}


def random_rows(rng: np.random.Generator, rows: int) -> tuple[list[list[int]], list[list[int]]]:
    lengths = rng.integers(0, 6, size=rows)
    predictions = [rng.integers(0, 2, size=length).tolist() for length in lengths]
    references = [rng.choice([-100, 0, 1, 1], size=length).tolist() for length in lengths]
    return predictions, references


def test_scores_equal_a_plain_loop_over_rows_of_any_length() -> None:
    from hf_radial.metrics import load_exact_match

    metric, rng = load_exact_match(), np.random.default_rng(0)
    for rows in (1, 7, 200, 200):
        predictions, references = random_rows(rng, rows)
        predictions.append([1, 0])
        references.append([1, -100])
        expected = slow_exact_match(predictions, references)
        assert metric.compute(predictions=predictions, references=references) == pytest.approx(expected)


def test_ignored_positions_and_rows_do_not_count() -> None:
    from hf_radial.metrics import load_exact_match

    result = load_exact_match().compute(
        predictions=[[9, 1, 2], [9, 9, 9], [5, 5, 0], [-100, 7, 7]],
        references=[[-100, 1, 2], [-100, -100, -100], [-100, 5, 5], [3, 7, 7]],
    )
    # The second row has nothing to score: neither a hit nor a miss.
    assert result == pytest.approx({"exact_match": 1 / 3, "token_accuracy": 5 / 7})


def test_arrays_and_tensors_are_rows_too() -> None:
    import torch

    from hf_radial.metrics import load_exact_match

    metric, rng = load_exact_match(), np.random.default_rng(1)
    predictions, references = rng.integers(0, 3, (20, 4)), rng.integers(0, 3, (20, 4))
    expected = slow_exact_match(predictions.tolist(), references.tolist())
    assert metric.compute(predictions=predictions, references=references) == pytest.approx(expected)
    tensors = torch.tensor(predictions), torch.tensor(references)
    assert metric.compute(predictions=tensors[0], references=tensors[1]) == pytest.approx(expected)


@pytest.mark.parametrize("keywords", [{}, {"keep_in_memory": False}], ids=["memory", "file"])
def test_batches_added_to_several_instances_in_turn_stay_apart(keywords: dict[str, Any]) -> None:
    from hf_radial.metrics import load_exact_match

    metrics, rng = [load_exact_match(**keywords) for _ in range(3)], np.random.default_rng(2)
    assert len({metric.experiment_id for metric in metrics}) == 3
    rows: list[tuple[list[list[int]], list[list[int]]]] = [([[1]], [[index % 2]]) for index in range(3)]
    for metric, (predictions, references) in zip(metrics, rows, strict=True):
        metric.add_batch(predictions=predictions, references=references)
    for metric, (predictions, references) in zip(metrics, rows, strict=True):
        more = random_rows(rng, 30)
        metric.add_batch(predictions=more[0], references=more[1])
        predictions += more[0]
        references += more[1]
    for metric, (predictions, references) in zip(metrics, rows, strict=True):
        assert metric.compute() == pytest.approx(slow_exact_match(predictions, references))


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (
            [[1, 2], [1, 2]],
            [[1, 2], [1]],
            r"predictions and references .* row 1 of predictions has 2 .* references has 1",
        ),
        ([[1], [2]], [[1]], r"predictions \(2\) and references \(1\)"),
        ([[1]], [[-100]], r"references have no position that counts"),
        ([], [], r"references have no position that counts"),
    ],
)
def test_bad_input_is_named_and_the_module_works_on(predictions: Any, references: Any, message: str) -> None:
    from hf_radial.metrics import load_exact_match

    metric = load_exact_match()
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=references)
    assert metric.compute(predictions=[[3]], references=[[3]]) == {"exact_match": 1.0, "token_accuracy": 1.0}


def test_two_thousand_rows_take_milliseconds() -> None:
    from hf_radial.metrics import load_exact_match

    metric, rng = load_exact_match(), np.random.default_rng(3)
    predictions, references = rng.integers(0, 10, (2, 2000, 5)).tolist()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        metric.compute(predictions=predictions, references=references)
        seconds.append(time.perf_counter() - start)
    # About 10 ms on an idle core; the bound leaves room for a busy machine.
    assert min(seconds) < 0.25


PROGRAM = """
import sys
import hf_radial.metrics
late = "evaluate" in sys.modules
metric = hf_radial.metrics.load_exact_match(keep_in_memory=False)
right = int(sys.argv[1])
metric.add_batch(predictions=[[1]] * 10, references=[[1]] * right + [[2]] * (10 - right))
print(late, metric.compute())
for keep_in_memory in (True, False):
    grokking = hf_radial.metrics.load_grokking(keep_in_memory=keep_in_memory)
    assert grokking.compute(steps=[5, 10], train=[1.0, 1.0], held_out=[0.0, 1.0])["delay_90"] == 5
    digits = hf_radial.metrics.load_per_digit_accuracy(keep_in_memory=keep_in_memory)
    assert digits.compute(predictions=["12"], references=["13"], reverse=True)["digit_accuracy"] == [1.0, 0.0]
"""


def test_processes_at_once_offline_from_an_empty_cache(tmp_path: Path) -> None:
    # Both copy the scripts of all metrics into the same empty cache at the same time, and both write to the same folder.
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    for name in ("HF_METRICS_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_DATASETS_CACHE"):
        environment.pop(name, None)
    with ThreadPoolExecutor() as pool:
        runs = pool.map(lambda right: run_python("-c", PROGRAM, right, env=environment, cwd=tmp_path, check=True), ("3", "8"))
    for run, share in zip(runs, (0.3, 0.8), strict=True):
        assert run.stdout == f"False {{'exact_match': {share}, 'token_accuracy': {share}}}\n"


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.write_text("where a folder should be")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment = {**kept, "HF_HOME": str(place), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    run = run_python("-c", "from hf_radial.metrics import load_exact_match as load; load()", env=environment)
    assert run.returncode == 1
    assert "the cache of evaluate cannot be written" in run.stderr and "Set HF_HOME" in run.stderr
