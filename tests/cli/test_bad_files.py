"""Every subcommand answers empty, cut, foreign and read-only files in one line that names them, with exit status 2."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from hf_radial.cli.main import main
from hf_radial.geometry.reading import Reading, Table

STATE = {"log_history": [{"step": 5, "epoch": 1.0, "loss": 0.5}], "global_step": 5}
RECORD = {"radial": {"sites": [], "variant": "none"}, "facts": {}, "model": {"class": "X"}, "training_args": {}}
WEIGHTS = save({})
GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": 0}


def folder(place: Path, files: dict[str, Any]) -> Path:
    """A folder with files: texts, bytes, or what is written as JSON."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return place


def refused(capsys: Any, message: str, *words: Any) -> None:
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hf-radial: error: ") and said.count("\n") == 1, said
    assert message in said, said


REPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "sites that are a text": (
        {"trainer_state.json": STATE, "run.json": {**RECORD, "radial": {"sites": "abc"}}},
        "run.json: radial.sites is 'abc', not a list of sites with names",
    ),
    "sites that are numbers": (
        {"trainer_state.json": STATE, "run.json": {**RECORD, "radial": {"sites": [1, 2]}}},
        "run.json: radial.sites is '[1, 2]', not a list",
    ),
    "a cut record": ({"trainer_state.json": STATE, "run.json": '{"radial": '}, "run.json is not JSON; it may have been cut"),
    "a list as a state": ({"trainer_state.json": []}, "trainer_state.json holds a list, not an object"),
    "a state in no encoding": ({"trainer_state.json": b"\xff\xfe"}, "trainer_state.json is not JSON"),
    "no table": ({"trainer_state.json": STATE, "geometry.parquet": b""}, "geometry.parquet is not a table of readings"),
}


@pytest.mark.parametrize("case", REPORTS)
def test_a_run_with_a_bad_file_is_not_reported_on(capsys: Any, tmp_path: Path, case: str) -> None:
    files, message = REPORTS[case]
    refused(capsys, message, "report", folder(tmp_path / "run", files))


def test_a_table_of_other_types_is_named(capsys: Any, tmp_path: Path) -> None:
    run = folder(tmp_path / "run", {"trainer_state.json": STATE})
    table = Table()
    table.add(5, 1.0, [Reading("radius_mean", 1.0, site="a")])
    columns = {name: pa.array(["x"]) for name in table.columns}
    pq.write_table(pa.table(columns), run / "geometry.parquet")
    refused(capsys, "geometry.parquet is not a table of readings", "report", run)


def test_a_run_killed_while_saving_is_reported_on_from_the_checkpoint_before(capsys: Any, tmp_path: Path) -> None:
    files = {"checkpoint-5/trainer_state.json": STATE, "checkpoint-10/trainer_state.json": '{"log_hist'}
    assert main(["report", str(folder(tmp_path / "run", files))]) == 0


GRIDS: dict[str, tuple[Any, str]] = {
    "cut": ('{"title": "x', "x.json is not JSON; it may have been cut"),
    "in no encoding": (b"\xff\xfe", "x.json is not JSON"),
    "a list": ([], "x.json holds a list, not an object"),
    "empty": ({}, "x.json has no 'title'; it has nothing"),
    "rows that are a text": ({"title": "t", "rows": "abc", "reference": "a"}, "x.json: 'rows' is a text, not a list"),
    "rows of something else": ({"title": "t", "rows": [{"a": 1}], "reference": "a"}, "rows that recipes/compare.py did not"),
}


@pytest.mark.parametrize("case", GRIDS)
def test_a_comparison_that_cannot_be_read_is_named(capsys: Any, tmp_path: Path, case: str) -> None:
    content, message = GRIDS[case]
    refused(capsys, message, "compare", "x", "--results", folder(tmp_path, {"x.json": content}))


def test_a_comparison_is_shown_beside_one_that_cannot_be_read(capsys: Any, tmp_path: Path) -> None:
    folder(tmp_path, {"a.json": "{", "good.json": {"title": "fine", "rows": [], "reference": "a"}})
    assert main(["compare", "good", "--results", str(tmp_path)]) == 0


def test_a_folder_is_no_comparison(capsys: Any, tmp_path: Path) -> None:
    refused(capsys, "x.json is a folder, not a file", "compare", "--results", folder(tmp_path, {"x.json/y": ""}))


def test_a_near_name_of_a_comparison_is_proposed(capsys: Any) -> None:
    refused(capsys, "GRID 'Tuend' is unknown; did you mean 'tuned'?", "compare", "Tuend")


MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "an index that is cut": ({"model.safetensors.index.json": "{"}, "model.safetensors.index.json is not JSON"),
    "an index without a map": ({"model.safetensors.index.json": {}}, "index.json has no 'weight_map'"),
    "an index with a list": ({"model.safetensors.index.json": {"weight_map": []}}, "'weight_map' is a list, not an object"),
    "an index of nothing": ({"model.safetensors.index.json": {"weight_map": {}}}, "names no tensors; save the model again"),
    "an index of numbers": ({"model.safetensors.index.json": {"weight_map": {"a": 5}}}, "is missing or damaged"),
    "a cut config.json": ({"model.safetensors": WEIGHTS, "config.json": "{"}, "config.json is not JSON"),
    "a cut run.json": ({"model.safetensors": WEIGHTS, "config.json": {}, "run.json": "{"}, "run.json is not JSON"),
    "a list as run.json": ({"model.safetensors": WEIGHTS, "config.json": {}, "run.json": []}, "run.json holds a list"),
    "an empty run.json": ({"model.safetensors": WEIGHTS, "config.json": {}, "run.json": {}}, "run.json has no 'facts'"),
    "facts that are a number": (
        {"model.safetensors": WEIGHTS, "config.json": {}, "run.json": {**RECORD, "facts": 5}},
        "run.json: 'facts' is a whole number, not an object",
    ),
    "a cut state": (
        {"model.safetensors": WEIGHTS, "config.json": {}, "run.json": RECORD, "trainer_state.json": "{"},
        "trainer_state.json is not JSON",
    ),
    "a state without a log": (
        {"model.safetensors": WEIGHTS, "config.json": {}, "run.json": RECORD, "trainer_state.json": {}},
        "trainer_state.json has no 'log_history'",
    ),
    "a log that is a number": (
        {
            "model.safetensors": WEIGHTS,
            "config.json": {},
            "run.json": RECORD,
            "trainer_state.json": {**STATE, "log_history": 5},
        },
        "'log_history' is a whole number, not a list",
    ),
    "a card in no encoding": (
        {
            "model.safetensors": WEIGHTS,
            "config.json": {},
            "run.json": RECORD,
            "trainer_state.json": STATE,
            "README.md": b"\xff",
        },
        "README.md is not text in UTF-8",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_with_a_bad_file_is_not_published(capsys: Any, tmp_path: Path, case: str) -> None:
    files, message = MODELS[case]
    refused(capsys, message, "publish", "model", folder(tmp_path / "run", files), "--repo", "a/b")


@pytest.mark.parametrize("repo", ["ab", "a/b/c", "ä/b", "a b/c"])
def test_a_name_that_no_hub_takes_is_named(capsys: Any, tmp_path: Path, repo: str) -> None:
    refused(capsys, f"repo_id={repo!r}", "publish", "model", tmp_path, "--repo", repo)


DATASETS: dict[str, tuple[dict[str, Any], str]] = {
    "a card in no encoding": ({"README.md": b"\xff\xfe"}, "README.md is not text in UTF-8"),
    "a card whose head is not YAML": (
        {"README.md": "---\ntags: [hf_radial\n---\n# x"},
        "has a card that hf_radial did not write",
    ),
    "cut facts": ({"other/task.json": "{"}, "other/task.json is not JSON"),
    "empty facts": ({"other/task.json": {}}, "other/task.json has no 'task'"),
    "a list as facts": ({"other/task.json": []}, "other/task.json holds a list"),
}


@pytest.mark.parametrize("case", DATASETS)
def test_a_dataset_is_not_written_into_a_folder_with_a_bad_file(capsys: Any, tmp_path: Path, case: str) -> None:
    files, message = DATASETS[case]
    words = ["publish", "dataset", "modular", "--config", "add_p5_f0.5_s0", "--folder", folder(tmp_path / "out", files)]
    refused(capsys, message, *words, "--cache_dir", tmp_path / "cache")


CONFIGS: dict[str, tuple[Any, str]] = {
    "a number as a text": (
        {**GPT2, "n_layer": "two"},
        "config.json makes no configuration: StrictDataclassFieldValidationError",
    ),
    "a width of 0": ({**GPT2, "n_embd": 0}, "no model class of transformers takes its configuration GPT2Config"),
    "heads that do not divide the width": ({**GPT2, "n_head": 3}, "must be divisible by num_heads"),
    "an expression that is cut": (GPT2, "sites: the pattern 're:(' is no regular expression"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_makes_no_model_says_why(capsys: Any, tmp_path: Path, case: str) -> None:
    config, message = CONFIGS[case]
    words = ["--sites", "re:("] if "expression" in case else []
    refused(capsys, message, "sites", folder(tmp_path, {"config.json": config}), *words)


def test_an_architecture_that_is_no_model_is_not_taken_for_one(capsys: Any, tmp_path: Path) -> None:
    config = {**GPT2, "architectures": ["Trainer"]}
    assert main(["sites", str(folder(tmp_path, {"config.json": config}))]) == 0
    assert "GPT2LMHeadModel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["report", ""], "runs"),
        (["report", "x", "--out", ""], "out"),
        (["tasks", "modular", "add_p5_f0.5_s0", "--cache_dir", ""], "cache_dir"),
        (["publish", "dataset", "modular", "--config", "add_p5_f0.5_s0", "--folder", ""], "folder"),
        (["publish", "model", "x", "--repo", "a/b", "--token", ""], "token"),
        (["sites", ""], "model"),
    ],
)
def test_an_empty_word_such_as_a_shell_makes_of_an_unset_variable_is_refused(capsys: Any, words: list[str], name: str) -> None:
    refused(capsys, f"{name} is empty; give a value, or leave it out", *words)


def test_a_page_that_cannot_be_written_is_an_error(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder(tmp_path / "run", {"trainer_state.json": STATE})
    file = tmp_path / "file"
    file.write_text("")
    refused(capsys, str(file), "report", run, "--out", file / "page.html")

    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, os.strerror(30), str(run / "report"))

    monkeypatch.setattr(Path, "mkdir", read_only)
    refused(capsys, "Read-only file system", "report", run)


def test_a_model_that_is_not_there_is_no_name_of_the_hub(capsys: Any, tmp_path: Path) -> None:
    refused(capsys, "there is no such folder; give one with a config.json", "sites", tmp_path / "gone")
    refused(capsys, "there is no such folder", "sites", "./gone")
    refused(capsys, "the folder has no config.json; give the folder that save_pretrained wrote", "sites", tmp_path)
