"""The answers of which_length, on rows whose truth is known."""

import json
import math

import pytest

from hf_radial.comparison.grid import read_grid
from hf_radial.comparison.paired import paired_cells
from recipes import which_length
from recipes.which_length import Held, answers, held_by, page, spreads, table

pytestmark = pytest.mark.quick


def rows(time):
    """The rows of the grid, with the onset that `time` gives for what an arm holds and the number of the seed."""
    grid = read_grid(which_length.ROOT / "recipes" / "configs" / "compare_length.yaml")
    found = []
    for cell in paired_cells(grid):
        row = {
            "setting": cell.setting,
            "arm": cell.arm,
            "seed": cell.options["seed"],
            "options": cell.options,
            "status": "solved",
        }
        found.append({**row, "onset": time(held_by(row)) * (1 + 0.01 * (cell.options["seed"] % 10))})
    return found


def one(found):
    return [row for row in found if row["setting"] == found[0]["setting"]]


def test_arms_are_read_from_their_interventions():
    held = {held_by(row) for row in one(rows(lambda held: 1.0))}
    assert len(held) == 49 and Held("last", "floor", 2.0, 1.0) in held and Held("none", "none", None, 0.5) in held
    assert Held("first", "two-sided", math.inf, 1.0) in held


def test_a_law_of_the_logits_is_found_where_there_is_one_and_not_where_there_is_none():
    law = one(rows(lambda held: 20 * ((held.radius or 1) / held.temperature) ** 0.5 if held.radius != math.inf else 50.0))
    assert answers(law)["The scale of the logits?"].startswith("yes")
    within, between = spreads(which_length.mean_times(law))
    assert within == pytest.approx(0, abs=1e-12) and between > 0.5
    radius_alone = one(rows(lambda held: 20 * (held.radius or 1) ** 0.5 if held.radius != math.inf else 50.0))
    assert answers(radius_alone)["The scale of the logits?"].startswith("undecided")


def test_the_layer_and_the_side_that_carry_the_effect_are_named():
    slow = one(rows(lambda held: 60.0 if held.where in ("first", "none") or held.side == "floor" else 20.0))
    assert answers(slow)["Which layer?"].startswith("the last carries it")
    assert answers(slow)["A ceiling?"].startswith("yes")
    assert answers(one(rows(lambda held: 20.0 if held.where == "both" else 60.0)))["Which layer?"].startswith("both matter")
    assert answers(one(rows(lambda held: 20.0)))["Which layer?"].startswith("undecided")


def test_the_page_has_every_mean_time(tmp_path, monkeypatch):
    found = rows(lambda held: 20.0)
    assert "| last, floor, 1 | – | 20.9 | 20.9 | 20.9 | – | – |" in table(one(found))
    (tmp_path / "compare").mkdir()
    (tmp_path / "compare" / "length.json").write_text(json.dumps({"title": "t", "question": "q", "rows": found}))
    monkeypatch.setattr(which_length, "RESULTS", tmp_path)
    which_length.main()
    assert (tmp_path / "which_length.md").read_text() == page({"title": "t", "question": "q", "rows": found})
    assert (tmp_path / "which_length.png").stat().st_size > 5000
