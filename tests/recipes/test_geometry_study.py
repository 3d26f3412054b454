"""recipes/geometry_study.py: the complete study at a hundredth of its size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from warm import WarmSubprocess, run_python

from hf_radial.comparison.propositions import NOT_MEASURED

ROOT = Path(__file__).parents[2]
SMALL = ["--p", "11", "--embedding_size", "8", "--hidden_size", "8", "--scale", "0.01", "--evaluate_every", "1"]
SMALL += ["--log_every", "1", "--metrics"]  # none: geometry has its own tests


@pytest.fixture(scope="module")
def study() -> Any:
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import geometry_study
    finally:
        sys.path.pop(0)
    # Three of the six, one of each weight decay and both lambdas: a process each is what these tests cost.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry_study, "ARMS", tuple(geometry_study.ARMS[i] for i in (1, 2, 5)))
        patch.setattr("hf_radial.runs.processes.subprocess", WarmSubprocess)
        yield geometry_study


@pytest.fixture(scope="module")
def rehearsal(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert study.main(["--jobs", "2", "--runs", str(folder / "runs"), "--results", str(folder / "results"), *SMALL]) == 0
    return folder


def test_one_command_makes_all_runs_and_keeps_what_is_small(rehearsal: Path, study: Any) -> None:
    data = json.loads((rehearsal / "results" / "geometry_study.json").read_text())
    assert [arm["arm"] for arm in data["arms"]] == [arm.name for arm in study.ARMS]
    assert data["not_yet_run"] == [] and data["scale"] == 0.01
    for arm in data["arms"]:
        kept, run = rehearsal / "results" / "geometry_study" / arm["arm"], rehearsal / "runs" / arm["arm"]
        record = json.loads((kept / "run.json").read_text())
        assert record["training_args"]["weight_decay"] == arm["weight_decay"]
        assert record["radial"]["radial_lambda"] == arm["radial_lambda"]
        state, whole = (json.loads((folder / "trainer_state.json").read_text()) for folder in (kept, run))
        assert len(state["log_history"]) == len(whole["log_history"])
        assert arm["held_out_exact_match"] == json.loads((run / "results.json").read_text())["last_held_out"]
        assert all(radius > 0 for radius in arm["radius"].values())
        assert sum(file.stat().st_size for file in kept.iterdir()) < 100_000
    table = (rehearsal / "results" / "geometry_study.md").read_text()
    assert table.count("| 0.001 | 0.05 | 0 |") == 1 and NOT_MEASURED in table


def test_what_is_done_is_not_run_again_and_what_was_interrupted_goes_on(rehearsal: Path, study: Any) -> None:
    before = {arm.name: (rehearsal / "runs" / arm.name / "results.json").stat().st_mtime_ns for arm in study.ARMS}
    interrupted = rehearsal / "runs" / study.ARMS[-1].name
    for name in ("results.json", "trainer_state.json"):
        (interrupted / name).unlink()
    options = ["--jobs", "2", "--runs", str(rehearsal / "runs"), "--results", str(rehearsal / "results"), *SMALL]
    assert study.main(options) == 0
    after = {arm.name: (rehearsal / "runs" / arm.name / "results.json").stat().st_mtime_ns for arm in study.ARMS}
    assert [name for name in before if before[name] != after[name]] == [interrupted.name]


def test_runs_of_another_length_are_not_taken_for_these(rehearsal: Path, study: Any) -> None:
    with pytest.raises(ValueError, match="holds a run of 26 epochs, not 2600: give another folder with --runs"):
        study.main(["--runs", str(rehearsal / "runs"), "--results", str(rehearsal / "other")])
    assert not (rehearsal / "other").exists()


def test_a_failed_arm_is_reported_and_the_others_are_kept(rehearsal: Path, study: Any, capsys: Any) -> None:
    failing = rehearsal / "runs" / study.ARMS[0].name
    for name in ("results.json", "trainer_state.json"):
        (failing / name).unlink()
    runs, results = str(rehearsal / "runs"), rehearsal / "failed"
    assert study.main(["--runs", runs, "--results", str(results), *SMALL[:-1], "--hidden_layers", "0", "--metrics"]) == 1
    said = capsys.readouterr()
    assert f"FAILED (1), see console.log: {failing}" in said.out
    assert "hidden_layers" in (failing / "console.log").read_text()
    data = json.loads((results / "geometry_study.json").read_text())
    assert data["not_yet_run"] == [failing.name] and len(data["arms"]) == len(study.ARMS) - 1
    assert f"Not yet run: {failing.name}" in (results / "geometry_study.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--scale", "0"], "--scale 0.0 must be above 0"),
        (["--weight_decay=0.3"], "--weight_decay=0.3 is what the arms differ in"),
    ],
)
def test_bad_options_are_refused_before_anything_is_run(study: Any, words: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        study.main(words)
    assert message in capsys.readouterr().err


def test_nothing_done_is_said_so(study: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no run is done"):
        study.main(["--only-report", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")])


def test_a_report_that_cannot_be_written_loses_no_results(
    study: Any, rehearsal: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ImportError("plots need matplotlib")

    monkeypatch.setattr(study, "write_report", fail)
    small = study.Study(rehearsal / "runs", tmp_path / "results", 0.01, ())
    (tmp_path / "results").mkdir()
    study.report(small)
    said = capsys.readouterr()
    assert "no report" in said.err and "plots need matplotlib" in said.err
    assert json.loads((tmp_path / "results" / "geometry_study.json").read_text())["arms"]


def test_help_says_what_it_does() -> None:
    done = run_python(ROOT / "recipes" / "geometry_study.py", "--help")
    assert done.returncode == 0 and "six runs" in done.stdout
