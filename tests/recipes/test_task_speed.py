"""The limits for speed and memory, and the committed measurements."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "recipes" / "task_speed.py"


def speed():
    spec = importlib.util.spec_from_file_location("task_speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_million_rows_of_modular_addition_take_under_a_second_and_a_half_of_a_core_and_300_mb():
    command = [sys.executable, str(SCRIPT), "--one", "modular", "add_p997_f0.5_s0", "builder"]
    run = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)
    assert run["rows"] == 997 * 997
    assert run["cpu_seconds"] < 1.5 and run["peak_mb"] < 300


def test_the_table_is_that_of_the_committed_data():
    module = speed()
    data = json.loads((module.RESULTS / "task_speed.json").read_text())
    assert (module.RESULTS / "task_speed.md").read_text() == module.markdown(data)
    assert [(r["task"], r["config"], r["how"]) for r in data["results"]] == list(module.CASES)
    assert data["environment"]["revision"] and data["environment"]["machine"]["device"]
