"""The tests as a whole: `make test-quick` touches every room, and processes of the warm server behave as new processes."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from versions import ROOT, quick_files
from warm import WarmProcess, run_python

ROOMS = sorted(
    str(file.parent.relative_to(ROOT)).replace(os.sep, ".")
    for file in (ROOT / "hf_radial").rglob("__init__.py")
    if file.parent.name not in ("hf_radial", "exact_match", "grokking", "per_digit_accuracy")  # files that evaluate loads
)


@pytest.fixture(scope="module")
def quick_texts() -> str:
    """The quick tests, and the scripts that they start."""
    files = [ROOT / file for file in quick_files()]
    folders = [ROOT / "tests" / "support", *(file.parent for file in files)]
    scripts = {script for folder in folders for script in folder.glob("*_worker.py")}
    workers = [script for script in scripts if any(script.name in file.read_text() for file in files)]
    return "\n".join(file.read_text() for file in (*files, *workers))


@pytest.mark.parametrize("room", ROOMS)
def test_the_quick_tests_touch_every_room(room: str, quick_texts: str) -> None:
    assert re.search(rf"\b{re.escape(room)}[. ]", quick_texts)


def test_collecting_garbage_does_not_look_at_what_is_imported() -> None:
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())


PROGRAMS = {
    "arguments": "import sys; print(sys.argv[1:], sys.path[:1], __name__, 'hf_radial' in sys.modules)",
    "environment": "import os; print(os.environ['HF_RADIAL_TEST'], 'HOME' in os.environ, os.getcwd())",
    "output": "import os, sys; print('out'); sys.stderr.write('err'); sys.stdout.flush(); os.write(1, b'raw')",
    "input": "print(input())",
    "status": "import sys; sys.exit(3)",
    "message": "import sys; sys.exit('why')",
    "error": "raise SystemError('oh')",
    "aborted": "import os; os.abort()",
    "at exit": "import atexit; atexit.register(print, 'last')",
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "classes": "import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A())).x)",
}


@pytest.mark.parametrize("way", ["-c", "script", "-m"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_warm_process_does_what_a_cold_one_does(name: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAMS[name])
    words = {"-c": ["-c", PROGRAMS[name]], "script": [str(tmp_path / "program.py")], "-m": ["-m", "program"]}[way]
    env = {**os.environ, "HF_RADIAL_TEST": "given"}
    warm = run_python(*words, "a", "b c", env=env, cwd=tmp_path)
    cold = subprocess.run(
        [sys.executable, *words, "a", "b c"],
        env=env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_a_warm_process_can_be_killed_and_is_waited_for() -> None:
    process = WarmProcess("-c", "import time; time.sleep(600)")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.05)
    process.kill()
    assert process.wait() == process.poll() == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("-c", "import time; time.sleep(600)", timeout=0.2)


@pytest.fixture(scope="module")
def quiet_recipe():
    from transformers.utils import logging

    logging.set_verbosity_error()


def test_a_fixture_that_quietens_transformers_does_not_quieten_a_test(quiet_recipe):
    from transformers.utils import logging

    assert logging.get_verbosity() == logging.WARNING
