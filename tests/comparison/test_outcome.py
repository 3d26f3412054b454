"""The files of a run's folder: complete results, counted failures, and the list of runs that are not done."""

import json

import pytest

from hf_radial.comparison.outcome import ATTEMPTS, FAILED_FILE, RESULT_FILE, note_failure, outcome, undone, write_json


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {("a", "b"): 2})  # a key that JSON does not know
    assert json.loads(file.read_text()) == {"a": 1}


def test_a_run_has_failed_after_its_last_attempt_and_is_made_again_before(tmp_path):
    folder = tmp_path / "run"
    for attempt in range(1, ATTEMPTS + 1):
        assert undone([(folder, {})]) == [(folder, {})]
        assert note_failure(folder, "boom", "trace")["attempts"] == attempt
    assert outcome(folder)["failure"] == "boom" and undone([(folder, {})]) == []


def test_a_result_counts_more_than_a_failure_before(tmp_path):
    write_json(tmp_path / FAILED_FILE, {"status": "failed", "attempts": ATTEMPTS})
    write_json(tmp_path / RESULT_FILE, {"status": "solved"})
    assert outcome(tmp_path) == {"status": "solved"}
