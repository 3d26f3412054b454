"""recipes/fast_choice.py: its table follows from its data, and the preset describes it correctly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from warm import WarmSubprocess

from hf_radial import RadialArguments
from hf_radial.runs.start import parse_options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipes() -> Any:
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import fast_choice
        import modular
    finally:
        sys.path.pop(0)
    return fast_choice, modular


@pytest.fixture(scope="module")
def data(recipes: Any) -> Any:
    return json.loads((recipes[0].RESULTS / "fast_choice.json").read_text())


def runs(data: Any, arm: str) -> list[dict[str, Any]]:
    return next(entry["runs"] for entry in data["arms"] if entry["arm"] == arm)


def test_the_table_is_that_of_the_committed_data(recipes: Any, data: Any) -> None:
    choice, _ = recipes
    assert (choice.RESULTS / "fast_choice.md").read_text() == choice.markdown(data)
    assert [entry["arm"] for entry in data["arms"]] == list(choice.ARMS)
    assert all([run["seed"] for run in entry["runs"]] == list(choice.SEEDS) for entry in data["arms"])
    assert data["environment"]["revision"] and not data["environment"]["revision"].endswith("-dirty")


def test_the_preset_is_the_set_up_that_was_chosen(recipes: Any, data: Any) -> None:
    choice, modular = recipes
    types = (modular.ModularArguments, RadialArguments)
    task, args = parse_options(types, ["--preset", "modular_fast"], modular.CONFIGS, modular.PRESET)
    resolved = {**vars(task), **vars(args)}
    assert data["arms"][0]["options"] == {name: resolved[name] for name in choice.OPTIONS}
    assert (task.operation, task.p, task.train_fraction, task.solved_evaluations, task.solved_at) == ("add", 97, 0.5, 3, 0.99)
    assert modular.build_model(task).num_parameters() == 74_337


def test_no_batch_of_the_preset_is_small(recipes: Any) -> None:
    """One row as a batch of its own, at this learning rate, undid what the others had learned: no seed was solved."""
    _, modular = recipes
    types = (modular.ModularArguments, RadialArguments)
    task, args = parse_options(types, ["--preset", "modular_fast"], modular.CONFIGS, modular.PRESET)
    left = modular.ModularConfig(p=task.p, train_fraction=task.train_fraction).sizes["train"] % args.per_device_train_batch_size
    assert left == 0 or left > args.per_device_train_batch_size / 2


def test_every_seed_of_the_preset_is_solved_in_time(data: Any) -> None:
    ours = runs(data, "the preset")
    assert len(ours) >= 5
    assert all(run["held_out"] >= 0.99 and run["test"] >= 0.99 for run in ours)
    assert 15 <= min(run["solved_epoch"] for run in ours) <= max(run["solved_epoch"] for run in ours) <= 19
    assert all(run["seconds"] < 15 for run in ours)


def test_what_the_preset_says_of_the_penalty_is_true(data: Any) -> None:
    steps = {entry["arm"]: [run["solved_step"] for run in entry["runs"]] for entry in data["arms"]}
    for arm in ("the preset and the penalty", "the penalty, tuned for it"):
        assert None not in steps[arm]
        assert 0.9 <= median(steps[arm]) / median(steps["the preset"]) <= 1.1
    assert steps["the preset without warm-up"].count(None) == 5 and len(steps["the preset"]) == 8
    assert None not in steps["the penalty without warm-up"]


@pytest.mark.slow
def test_the_preset_reaches_99_percent_from_a_cold_process(recipes: Any) -> None:
    """A seed that no table was made from; the seconds are told, not judged: this machine may be busy."""
    choice, _ = recipes
    run = choice.run({}, seed=9)
    print(f"{run['seconds']:.1f} s, epoch {run['solved_epoch']:g}")
    assert run["solved_step"] is not None and run["held_out"] >= 0.99 and run["test"] >= 0.99


def test_a_run_that_fails_stops_the_comparison(recipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes[0], "subprocess", WarmSubprocess)
    with pytest.raises(subprocess.CalledProcessError):
        recipes[0].run({"p": 0}, seed=0)
