"""The grokking module gives the result of hf_radial.grokking; test_exact_match.py loads it offline in a new process."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hf_radial.metrics import load_grokking
from hf_radial.runs.onset import summarise

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def metric() -> Any:
    return load_grokking()


def random_run(seed: int) -> tuple[list[int], list[float], list[float]]:
    rng = random.Random(seed)
    steps = sorted(rng.sample(range(1, 1000), rng.randint(1, 12)))
    return steps, [rng.choice([0.5, 0.99, 1.0]) for _ in steps], [rng.choice([0.1, 0.9, 0.99, float("nan")]) for _ in steps]


@pytest.mark.parametrize("seed", range(10))
def test_logs_and_columns_and_added_rows_give_the_same_summary(metric: Any, seed: int) -> None:
    steps, train, held_out = random_run(seed)
    log = [
        entry for s, a, b in zip(steps, train, held_out, strict=True) for entry in ({"step": s, "a": a}, {"step": s, "b": b})
    ]
    options = random.Random(seed).choice([{}, {"thresholds": (0.5, 0.9)}, {"fit_threshold": 0.5}])
    expected = repr(summarise(log, "a", "b", **options))
    assert repr(metric.compute(log_history=log, train_metric="a", held_out_metric="b", **options)) == expected
    assert repr(metric.compute(steps=steps, train=train, held_out=held_out, **options)) == expected
    for s, a, b in zip(steps, train, held_out, strict=True):
        metric.add_batch(steps=[s], train=[a], held_out=[b])
    assert repr(metric.compute(**options)) == expected


def test_a_trainers_own_log_with_epochs(metric: Any) -> None:
    log = []
    for i, held_out in enumerate([0.1, 0.95, 0.99], 1):
        log += [{"step": i, "epoch": i / 2, "loss": 1.0}, {"step": i, "epoch": i / 2, "eval_train_exact_match": 1.0}]
        log.append({"step": i, "epoch": i / 2, "eval_validation_exact_match": held_out})
    result = metric.compute(log_history=log)
    assert (result["fit_epoch"], result["onset_90_epoch"], result["onset_99_epoch"]) == (0.5, 1.0, 1.5)
    assert result["delay_99"] == 2 and result["delay_99_epochs"] == 1.0 and result["censored"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"steps, train, held_out must be given too, or log_history"),
        ({"steps": [1], "train": [1.0]}, r"held_out must be given too"),
        ({"steps": [1], "train": [1.0], "held_out": [1.0], "log_history": []}, r"not both"),
        ({"log_history": [{"step": 1, "eval_acc": 1.0}], "train_metric": "eval_ac"}, r"did you mean 'eval_acc'"),
        ({"steps": [2, 1], "train": [1.0, 1.0], "held_out": [1.0, 1.0]}, r"ascending order"),
        ({"steps": [1, 1], "train": [1.0, 1.0], "held_out": [1.0, 1.0]}, r"each once"),
        ({"steps": [1, 2], "train": [1.0], "held_out": [1.0, 1.0]}, r"Mismatch in the number of"),
        ({"steps": [1], "train": [1.0], "held_out": [93.0]}, r"held_out_metric='held_out' is 93 .*percentage"),
        ({"steps": [1], "train": [1.0], "held_out": [None]}, r"is None at step 1"),
        ({"steps": [1], "train": [1.0], "held_out": [1.0], "train_metric": "x"}, r"train_metric is for log_history"),
        ({"steps": [], "train": [], "held_out": []}, r"not in the log"),
    ],
)
def test_bad_input_is_named_and_the_module_works_on(metric: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric.compute(**arguments)
    assert metric.compute(steps=[1], train=[1.0], held_out=[1.0])["delay_99"] == 0
