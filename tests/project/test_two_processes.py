"""The launcher of two processes: an abort by Gloo is tried again once, and the summary of pytest names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import two_processes
from warm import run_python

TESTS = """
import pytest
import two_processes

@pytest.fixture(scope="module")
def launched():
    ends = [([0, -6], two_processes.GLOO_ABORT), ([0, 0], "fine")]
    two_processes._launched = lambda *arguments: ends.pop(0)
    return two_processes.launch("some_worker.py")

def test_that_is_tried_again(launched):
    assert launched == "fine"

def test_that_is_not(launched):
    two_processes._launched = lambda *arguments: ([0, 0], "fine")
    two_processes.launch("other_worker.py")
"""


def test_a_script_that_was_tried_again_is_named_in_the_summary(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_inner.py").write_text(TESTS)
    tests = Path(__file__).parents[1]
    paths = (tests, tests / "support", tests.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    run = run_python("-m", "pytest", "-q", "-p", "no:xdist", "-p", "conftest", str(tmp_path), cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tried again after an abort by Gloo: 1" in run.stdout
    assert "some_worker.py of test_inner.py::test_that_is_tried_again" in run.stdout and "other_worker" not in run.stdout


@pytest.mark.parametrize("said", ["another error", two_processes.GLOO_ABORT])
def test_another_error_or_a_second_abort_fails(monkeypatch, said):
    launched = []
    monkeypatch.setattr(two_processes, "_launched", lambda *arguments: launched.append(arguments) or ([0, 1], said))
    with pytest.raises(AssertionError, match=r"worker.py ended with \[0, 1\]"):
        two_processes.launch("worker.py")
    two_processes.tried_again.clear()  # it was none
    assert len(launched) == (2 if said == two_processes.GLOO_ABORT else 1)
