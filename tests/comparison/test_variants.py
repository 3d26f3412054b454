"""The tables and the figure of variants of the penalty, on the committed study and on made-up runs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from hf_radial.comparison.variants import medians, plot

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "recipes" / "results"


def run(variant, seed, onset, last=1000):
    reached = {"fit_step": 100, "first_three_99": onset, "onset_99": onset, "last_step": last}
    return {"variant": variant, "radial_lambda": 0.01, "seed": seed, "test_exact_match": 1.0, **reached}


def test_a_ratio_is_a_bound_where_one_of_two_runs_has_no_onset():
    rows = [run("none", seed, onset) for seed, onset in enumerate((800, 800, None, None))]
    rows += [run("ours", seed, onset) for seed, onset in enumerate((400, None, 400, None))]
    *_, none, ours = medians(rows, "none")
    assert ours.endswith("| 0.50, > 1.25, < 0.40, neither got there |")
    assert "| 100 | > 1,000 | > 1,000 |" in none  # two of four have no onset: their median is only known to be later


def test_the_committed_page_is_that_of_its_data(tmp_path):
    spec = importlib.util.spec_from_file_location("addition_study", ROOT / "recipes" / "addition_study.py")
    recipe = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = recipe  # dataclasses look their module up
    spec.loader.exec_module(recipe)
    data = json.loads((RESULTS / "addition_cpu.json").read_text())
    assert (RESULTS / "addition_cpu.md").read_text() == recipe.markdown(data)
    plot([*data["judged"], {"variant": "paper", "radial_lambda": 0.1, "seed": 9, "status": "not yet run"}], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0
