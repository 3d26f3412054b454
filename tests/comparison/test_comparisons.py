"""Pages are made from committed comparisons, no run of a grid is left out of them, and a cell runs again as it ran."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from committed import COMPARISONS, read
from pages import TEXT

from hf_radial.comparison.grid import read_grid
from hf_radial.comparison.paired import paired_cells
from hf_radial.comparison.table import page, page_of
from recipes.tables import COMPARED

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(file.stem for file in COMPARISONS.glob("*.json"))


@pytest.mark.parametrize("name", COMMITTED)
def test_pages_are_made_from_the_data_and_shown(name):
    data, entries = read(name)
    assert (COMPARISONS / f"{name}.md").read_text() == (page_of(data) or page(data, entries))
    assert name in COMPARED or f"recipes/results/compare/{name}.md)" in TEXT


@pytest.mark.parametrize("name", COMMITTED)
def test_nothing_is_left_out_of_a_committed_comparison(name):
    data, _ = read(name)
    grid = read_grid(ROOT / "recipes" / "configs" / f"compare_{name}.yaml")
    tuned = Counter((row["setting"], row["arm"]) for row in data["rows"] if row["stage"] == "tuning")
    stages = [row["stage"] for row in data["rows"]]
    # With replicates, settings that time did not allow are counted on the page. None is there in part.
    made = len({row["setting"] for row in data["rows"]}) if grid.replicates else len(grid.settings)
    cells, replicates = made * len(grid.arms), max(1, grid.replicates)
    if data.get("paired"):  # settings that time did not allow are counted on the page, and no arm lacks a draw of another
        assert data["missing"] + len(stages) == len(paired_cells(grid))
        drawn = Counter((row["setting"], row["seed"]) for row in data["rows"])
        assert set(drawn.values()) == {len(grid.arms)}
    else:
        left_out = (len(grid.settings) - made) * len(grid.arms) * replicates  # tunings, of which nothing was made
        assert data["missing"] == left_out * (1 + len(grid.seeds))
        assert stages.count("judged") == cells * len(grid.seeds) * replicates
    if grid.tuning:
        most = grid.tuning.trials * len(grid.tuning.seeds) + grid.tuning.finalists * len(grid.tuning.finalist_seeds)
        # What is drawn twice is run once.
        assert len(tuned) == cells and all(replicates * (most - 2) <= count <= replicates * most for count in tuned.values())
    # Two arms may be tuned to the same.
    assert len({(row["setting"], row["arm"], row["run"]) for row in data["rows"]}) == len(stages)
    revisions = {row["revision"] for row in data["rows"]}
    assert not any(revision and "dirty" in revision for revision in revisions)
    # Where the machine was so busy that git did not answer, the others of its kind do.
    unknown = {row["arm"] for row in data["rows"] if row["revision"] is None}
    assert unknown <= {row["arm"] for row in data["rows"] if row["revision"]} and (data.get("paired") or not unknown)


def test_a_committed_cell_run_again_comes_out_the_same(tmp_path):
    from hf_radial.comparison.run import make_run

    data, _ = read("rivals")
    solved = [row for row in data["rows"] if row["stage"] == "judged" and row["status"] == "solved"]
    row = min((row for row in solved if row["arm"] == "AdamW"), key=lambda row: row["seconds"])
    again = make_run(tmp_path / row["run"], row["options"])
    assert again["status"] == "solved" and again["fit"] == pytest.approx(row["fit"], abs=2)
    assert again["onset"] == pytest.approx(row["onset"], rel=0.15)  # on another machine, rounding
    for (epoch, value), (_, here) in zip(row["curve"][:5], again["curve"], strict=False):
        assert here == pytest.approx(value, abs=0.02), epoch
