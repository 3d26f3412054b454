"""The runs of a grid: for the committed comparisons they are the committed runs, with the same names."""

import json
from pathlib import Path

import pytest

from hf_radial.comparison.grid import read_grid
from hf_radial.comparison.outcome import RESULT_FILE, write_json
from hf_radial.comparison.trials import best_trial, judged_cells, tuning_cells
from hf_radial.comparison.tuning import sampler_name

ROOT = Path(__file__).parents[2]


def committed(name):
    data = json.loads((ROOT / "recipes" / "results" / "compare" / f"{name}.json").read_text())
    return data, read_grid(ROOT / "recipes" / "configs" / f"compare_{name}.yaml")


@pytest.mark.parametrize("name", ["decay", "controls", "batch"])
def test_runs_of_a_grid_without_tuning_keep_their_names(name, tmp_path):
    data, grid = committed(name)
    assert [cell.folder(tmp_path).name for cell in judged_cells(grid, tmp_path)] == [row["run"] for row in data["rows"]]


def test_a_tuning_that_is_told_the_committed_outcomes_asks_for_the_committed_runs(tmp_path):
    """The whole of a search, its finalists and what is judged follow from the outcomes: names of runs cannot drift."""
    data, grid = committed("scarce")
    if data["tuning"]["sampler"] != sampler_name():
        pytest.skip(f"drawn by {data['tuning']['sampler']}, here is {sampler_name()}")
    for row in data["rows"]:
        (tmp_path / row["run"]).mkdir(exist_ok=True)
        write_json(tmp_path / row["run"] / RESULT_FILE, row)
    rows = {(row["setting"], row["arm"], row["stage"], row["run"]) for row in data["rows"]}
    found = set()
    for setting in grid.settings:
        for arm in grid.arms:
            done, waiting = tuning_cells(grid, setting, arm, tmp_path)
            assert not waiting and best_trial(grid, setting, arm, tmp_path) is not None
            found |= {(cell.setting, cell.arm, cell.stage, cell.folder(tmp_path).name) for cell in done}
    found |= {(cell.setting, cell.arm, cell.stage, cell.folder(tmp_path).name) for cell in judged_cells(grid, tmp_path)}
    assert found == rows


def test_before_the_reference_is_tuned_no_arm_is_judged(tmp_path):
    _, grid = committed("scarce")
    assert judged_cells(grid, tmp_path) == []
    done, waiting = tuning_cells(grid, grid.settings[0], grid.arms[0], tmp_path)
    assert done == [] and len(waiting) == len(grid.tuning.seeds)
