"""The arms of a recipe side by side."""

from __future__ import annotations

import json

from hf_radial.report.arms import write_arms


def test_a_table_says_where_an_arm_did_not_get_there(tmp_path):
    reached = {"fit_step": 100, "held_out_at_fit": 0.25, "onset_90": 300, "onset_99": None, "last_step": 500}
    results = {
        "no penalty": {**reached, "test": {"exact_match": 0.5, "problems": 2000}},
        "paper penalty": {**reached, "fit_step": None, "held_out_at_fit": None, "test": {"exact_match": 1.0, "problems": 2000}},
    }
    log = [{"step": step, "task_loss": 1.0, "eval_train_exact_match": 1.0} for step in (100, 200)]
    table = write_arms(results, {label: log for label in results}, tmp_path, "Addition")
    none, paper = table.splitlines()[2:]
    assert none.startswith("| no penalty | 50.00% of 2,000 |") and "| 25.0% |" in none
    assert paper.count("not by step 500") == 2
    assert (tmp_path / "comparison.md").read_text() == table + "\n"
    assert json.loads((tmp_path / "results.json").read_text()) == results and (tmp_path / "comparison.png").exists()
