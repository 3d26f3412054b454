"""recipes/modular.py as a user starts it: real processes, real files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from warm import WarmProcess, kill_at_a_checkpoint, run_python

from hf_radial import RadialArguments
from hf_radial.runs.epochs import in_steps
from hf_radial.runs.start import parse_options

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "modular.py"
SMALL = {"p": 13, "embedding_size": 8, "hidden_size": 16, "num_train_epochs": 12, "per_device_train_batch_size": 16}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(folder: Path, **options: Any) -> list[str]:
    values = {**SMALL, "evaluate_every": 3, "log_every": 2, "save_every": 4, "output_dir": folder, **options}
    return [str(RECIPE), *(word for name, value in values.items() for word in (f"--{name}", str(value)))]


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_python(*words, env=ENVIRONMENT, cwd=cwd)


@pytest.fixture(scope="module")
def recipe() -> Any:
    sys.path.insert(0, str(RECIPE.parent))
    try:
        import modular
    finally:
        sys.path.pop(0)
    return modular


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run started from an empty folder: nothing may depend on the working directory."""
    folder = tmp_path_factory.mktemp("run")
    result = run(*command(folder / "out"), cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "out", result.stdout


def test_it_says_where_everything_is_and_everything_is_there(finished: tuple[Path, str]) -> None:
    folder, said = finished
    named = re.findall(rf"{re.escape(str(folder))}[^\s,]*", said)
    assert len(named) >= 4 and all(Path(name).exists() for name in named)
    for name in ("model.safetensors", "config.json", "README.md", "run.json", "trainer_state.json", "results.json"):
        assert (folder / name).stat().st_size > 0
    assert len(list(folder.glob("checkpoint-*"))) == 1


def test_what_is_given_in_epochs_happens_at_those_epochs(finished: tuple[Path, str]) -> None:
    log = json.loads((finished[0] / "trainer_state.json").read_text())["log_history"]
    assert [logs["epoch"] for logs in log if "eval_validation_exact_match" in logs] == [3, 6, 9, 12]
    assert [logs["epoch"] for logs in log if "task_loss" in logs] == [2, 4, 6, 8, 10, 12]
    assert {logs["step"] / logs["epoch"] for logs in log} == {6.0}  # 85 training rows in batches of 16


def test_results_agree_with_the_log_and_with_a_count_by_hand(finished: tuple[Path, str], recipe: Any) -> None:
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert results["last_held_out"] == [x for x in log if "eval_validation_exact_match" in x][-1]["eval_validation_exact_match"]
    assert results["test"]["other_splits"]["validation"] == pytest.approx(results["last_held_out"])
    model = recipe.ModularMLPForSequenceClassification.from_pretrained(folder)
    data = recipe.load_data(recipe.ModularArguments(p=13))
    right = [
        model(input_ids=torch.tensor([row["input_ids"]])).logits.argmax().item() == sum(row["input_ids"]) % 13
        for row in data["test"]
    ]
    assert results["test"]["exact_match"] == pytest.approx(sum(right) / len(right))
    assert results["test"]["problems"] == len(right)


def test_the_snippet_of_the_card_runs(finished: tuple[Path, str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (finished[0] / "README.md").read_text(), re.S)
    result = run("-c", snippet)
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.match(r"tensor\(\[\d+\]\)", result.stdout)


@pytest.mark.usefixtures("as_in_other_processes")
def test_a_run_killed_and_resumed_ends_with_the_same_weights(finished: tuple[Path, str], recipe: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = WarmProcess(*command(folder), env=ENVIRONMENT)
    kill_at_a_checkpoint(process, folder)
    (folder / "results.json").unlink(missing_ok=True)  # it may have been faster than the signal
    (folder / "trainer_state.json").unlink(missing_ok=True)
    whole = load_file(finished[0] / "model.safetensors")
    words = command(folder)[1:]
    with pytest.raises(ValueError, match="holds another run"):
        recipe.main(words)
    with pytest.raises(ValueError, match=r"weight_decay was 0\.001, now 0\.5"):
        recipe.main([*words, "--resume_from_checkpoint", "true", "--weight_decay", "0.5"])
    for _ in range(2):  # the second time there is nothing left to train
        recipe.main([*words, "--resume_from_checkpoint", "true"])
        ours = load_file(folder / "model.safetensors")
        assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_seeds_of_weights_and_of_the_split_are_two(recipe: Any) -> None:
    rows = [recipe.load_data(recipe.ModularArguments(p=13, task_seed=seed))["train"]["input_ids"] for seed in (0, 0, 1)]
    assert list(rows[0]) == list(rows[1]) != list(rows[2])


def test_the_preset_is_the_set_up_that_was_measured(recipe: Any) -> None:
    task, args = parse_options((recipe.ModularArguments, RadialArguments), [], recipe.CONFIGS, recipe.PRESET)
    assert (task.operation, task.p, task.train_fraction, task.embedding_size, task.hidden_size) == ("add", 97, 0.5, 256, 512)
    assert (args.learning_rate, args.weight_decay, args.radial_lambda, args.max_grad_norm) == (1e-3, 1e-3, 0.05, 0.0)
    assert (args.per_device_train_batch_size, args.lr_scheduler_type) == (256, "constant")
    assert in_steps(args, 4704, task.evaluate_every, task.log_every, task.save_every)[1] == 19
    assert recipe.build_model(task).num_parameters() == 97 * 256 + 2 * (512 * 512 + 512) + 512 * 97 + 97


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction=0.0 must be above 0"),
        ({"validation_fraction": 0.5}, "leaves the split 'test'"),
        ({"evaluate_every": 0}, "evaluate_every=0 must be at least 1 epoch"),
        ({"geometry_every": -1}, "geometry_every=-1"),
        ({"threads": -1}, "threads=-1 must be positive, or 0"),
        ({"operation": "a/b", "p": 12}, "p must be prime"),
        ({"operation": "plus"}, "operation"),
        ({"operation": "mul", "geometry_every": 1, "geometry_metrics": ["fourier"]}, "'fourier' is for"),
    ],
)
def test_bad_options_are_refused_by_name_before_anything_is_made(recipe: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe.ModularArguments(**options)


def test_a_formula_is_as_good_as_a_name(recipe: Any) -> None:
    assert recipe.ModularArguments(operation="a + b").operation == "add"


def test_interventions_are_options_and_are_on_record(tmp_path: Path) -> None:
    words = ["--intervention", "grokfast_ema:alpha=0.9,lamb=0.5", "dropout:p=0.1", "stablemax"]
    result = run(*command(tmp_path / "out", num_train_epochs=6), *words)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_dropout"] == 0.1
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert load_file(checkpoint / "intervention_grokfast_ema.safetensors")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["training_args"]["intervention"] == words[1:]

    result = run(*command(tmp_path / "wrong"), "--intervention", "grokfst_ema")
    assert result.returncode != 0 and "did you mean 'grokfast_ema'?" in result.stderr
