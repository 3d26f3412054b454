"""`hf-radial tasks` and `hf-radial publish dataset` from the command line."""

from __future__ import annotations

import json

import datasets
import pytest

from hf_radial.cli.main import main
from hf_radial.tasks.checksums import committed_checksums
from hf_radial.tasks.load import TASKS

pytestmark = pytest.mark.quick


def test_tasks_are_listed_and_described(capsys, tmp_path):
    assert main(["tasks"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{task}\n" in f"\n{listed}" for task in TASKS) and "    add_p97_f0.5_s0\n" in listed
    assert main(["tasks", "groups"]) == 0
    assert "modular" not in capsys.readouterr().out
    name = "add_p97_f0.5_s0"
    assert main(["tasks", "modular", name, "--json", "--cache_dir", str(tmp_path)]) == 0
    about = json.loads(capsys.readouterr().out)
    assert {split: part["checksum"] for split, part in about["splits"].items()} == committed_checksums()[f"modular/{name}"]


def test_the_shelf_is_verified_and_a_difference_is_exit_status_1(capsys, tmp_path, monkeypatch):
    assert main(["tasks", "--verify", "--cache_dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(committed_checksums()) and all(line.startswith("same rows") for line in lines)
    committed = committed_checksums()
    committed["modular/add_p97_f0.5_s0"]["test"] = "0" * 64
    monkeypatch.setattr("hf_radial.tasks.checksums.committed_checksums", lambda: committed)
    assert main(["tasks", "--verify", "--cache_dir", str(tmp_path)]) == 1
    assert "OTHER ROWS  modular/add_p97_f0.5_s0\n" in capsys.readouterr().out


def test_a_file_for_the_checksums_that_cannot_be_written_is_named_at_once(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_radial.tasks.show.shelf_checksums", lambda *args: pytest.fail("rows are made"))
    (tmp_path / "file").write_text("")
    for file in (tmp_path, tmp_path / "file" / "x", "/proc/x"):
        assert main(["tasks", "--write", str(file)]) == 2
        assert f"--write {file} cannot be written" in capsys.readouterr().err


def test_a_dataset_is_written_to_a_folder_without_a_hub(capsys, tmp_path):
    folder = tmp_path / "out"
    words = ["publish", "dataset", "modular", "--config", "add_p5_f0.5_s0", "mul_p5_f0.5_s0", "--folder", str(folder)]
    assert main([*words, "--cache_dir", str(tmp_path / "cache")]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    data = datasets.load_dataset(str(folder), "mul_p5_f0.5_s0", cache_dir=str(tmp_path / "loaded"))
    assert all(row["labels"] == row["input_ids"][0] * row["input_ids"][1] % 5 for row in data["test"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tasks", "modula"], "task='modula' is unknown; did you mean 'modular' or 'modular_sequence'?"),
        (["tasks", "modular", "add_p97"], "'add_p97' is not a configuration of this task; one is 'add_p97_f0.5_s0'"),
        (["publish", "dataset", "modular", "--config", "add_p5_f0.5_s0"], "give --repo ORG/NAME to upload, or --folder DIR"),
        (["publish", "dataset", "modular", "--config", "add", "--repo", "a/b"], "'add' is not a configuration"),
        (["publish", "dataset", "modular", "--config", "add_p5_f0.5_s0", "--repo", "b"], "repo_id='b' has no owner"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(capsys, words, message):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hf-radial: error: ") and message in captured.err and captured.err.count("\n") == 1
