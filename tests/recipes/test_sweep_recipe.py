"""recipes/sweep.py as a user starts it, compared with recipes/modular.py with the same options."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from warm import run_python

from hf_radial.runs.files import group_runs, read_runs

ROOT = Path(__file__).parents[2]
SMALL = {"p": 13, "embedding_size": 8, "hidden_size": 16, "num_train_epochs": 12, "per_device_train_batch_size": 16}
OPTIONS = {**SMALL, "evaluate_every": 3, "log_every": 2, "save_every": 0, "report_to": "none"}
GRID = ["--seeds", "0", "1", "--radial_lambdas", "0", "0.5", "--weight_decays", "1.0"]
TIMED = ("_runtime", "_samples_per_second", "_steps_per_second")


def words(folder: Path, **options: Any) -> list[str]:
    values = {**OPTIONS, "output_dir": folder, **options}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def recipes() -> Any:
    sys.path.insert(0, str(ROOT))
    try:
        import recipes.modular
        import recipes.sweep
    finally:
        sys.path.pop(0)
    return recipes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("sweep")
    result = run_python(ROOT / "recipes" / "sweep.py", *words(folder / "out"), *GRID, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "out", result.stdout


def log_of(folder: Path) -> list[dict[str, Any]]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in logs.items() if not name.endswith(TIMED)} for logs in log]


def test_each_run_leaves_what_a_single_run_leaves(finished: tuple[Path, str], recipes: Any, tmp_path: Path) -> None:
    folder = finished[0] / "lr-0.001_wd-1_lambda-0.5_seed-1"
    options = {"seed": 1, "radial_lambda": 0.5, "weight_decay": 1.0}
    single = recipes.modular.main(words(tmp_path / "single", **options))
    assert {path.name for path in single.iterdir()} - {path.name for path in folder.iterdir()} <= {
        "curves.png",
        "training_args.bin",
    }
    assert [list(logs) for logs in log_of(folder)] == [list(logs) for logs in log_of(single)]
    for logs, expected in zip(log_of(folder), log_of(single), strict=True):
        assert logs == pytest.approx(expected, rel=1e-3, abs=1e-4)
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, single))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-4
    ours, theirs = (json.loads((path / "results.json").read_text()) for path in (folder, single))
    assert ours.keys() == theirs.keys() and ours["fit_step"] == theirs["fit_step"] and ours["onset_90"] == theirs["onset_90"]
    ours, theirs = (json.loads((path / "run.json").read_text()) for path in (folder, single))
    assert ours["facts"] == theirs["facts"] and ours["radial"] == theirs["radial"] and ours["model"] == theirs["model"]
    assert ours["sweep"]["members"] == 4


def test_runs_are_read_as_groups_that_differ_in_seeds(finished: tuple[Path, str]) -> None:
    folders = sorted(path for path in finished[0].iterdir() if path.is_dir())
    assert len(folders) == 4
    assert sorted(group.label for group in group_runs(read_runs(folders))) == ["lambda 0", "lambda 0.5"]


def test_the_table_has_every_run_and_what_is_named_is_there(finished: tuple[Path, str]) -> None:
    folder, said = finished
    assert len(re.findall(r"^ +0.001 +1 +0(?:\.5)? +[01] ", said, re.M)) == 4
    for name in ("sweep.json", "sweep.png"):
        assert str(folder / name) in said and (folder / name).stat().st_size > 0
    for run in json.loads((folder / "sweep.json").read_text())["runs"]:
        log = [logs for logs in log_of(folder / run["run"]) if "eval_validation_exact_match" in logs]
        assert run["last_held_out"] == log[-1]["eval_validation_exact_match"]


def test_only_what_is_not_done_is_trained_again(
    finished: tuple[Path, str], recipes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "out")
    interrupted = folder / "lr-0.001_wd-1_lambda-0_seed-1"
    whole = load_file(interrupted / "model.safetensors")
    for name in ("results.json", "model.safetensors", "trainer_state.json"):
        (interrupted / name).unlink()
    others = {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}
    with pytest.raises(ValueError, match="holds another run"):
        recipes.sweep.main([*words(folder), *GRID])
    again = [*words(folder), *GRID, "--resume_from_checkpoint", "true"]
    with pytest.raises(ValueError, match=re.escape("p was 13, now 11")):
        recipes.sweep.main([*again, "--p", "11"])
    recipes.sweep.main(again)
    assert "4 runs, 3 of them done; 1 at once" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == before for path, before in others.items())
    ours = load_file(interrupted / "model.safetensors")
    assert max((ours[name] - whole[name]).abs().max().item() for name in whole) < 1e-5  # alone, not with three others


def test_a_run_that_fails_is_told_and_the_others_are_kept(
    recipes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = [*words(tmp_path / "out"), "--learning_rates", "0.001", "1e30", "--members_at_once", "2"]
    folder = recipes.sweep.main(sweep)
    assert "FAILED: the loss was nan in the steps up to" in capsys.readouterr().out
    bad, good = folder / "lr-1e+30_wd-0.001_lambda-0.05_seed-0", folder / "lr-0.001_wd-0.001_lambda-0.05_seed-0"
    assert json.loads((bad / "failed.json").read_text())["last_step"] == 12  # the first log
    assert not (bad / "results.json").exists() and not (bad / "model.safetensors").exists()
    assert math.isfinite(json.loads((good / "results.json").read_text())["last_held_out"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0", "0"], "seeds=[0, 0] must be at least one value, each once"),
        (["--members_at_once", "0"], "members_at_once=0"),
        (["--radial_lambdas", "-1"], "radial_lambda=-1.0 must be finite in float32 and not negative"),
        (["--geometry_every", "5"], "geometry_every=5 is not supported in a sweep"),
        (["--gradient_accumulation_steps", "2"], "gradient_accumulation_steps=2 is not supported in a sweep"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    recipes: Any, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        recipes.sweep.main([*words(tmp_path / "out"), *options])
    assert not list(tmp_path.rglob("run.json"))
