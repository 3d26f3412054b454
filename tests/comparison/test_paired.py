"""The paired design: each task has its own draws, all arms have the same ones, and ratios equal a slow reference."""

from __future__ import annotations

import json
import math
import random

import pytest
import yaml

from hf_radial.comparison.grid import read_grid
from hf_radial.comparison.paired import chunks, compare_paired, paired_cells, pairs_of, ratio_of_means, where_both
from hf_radial.comparison.paired_page import best_values, by_value, paired_page, shares

GRID = {
    "title": "t",
    "base": {"epochs": 100},
    "axes": {"task": ["modular", "groups"]},
    "arms": {"AdamW": {}, "LayerNorm": {"options": {"interventions": ["layer_norm"]}}},
    "design": "paired",
    "paired": {"draws": 5, "common": {"learning_rate": {"log": [1e-3, 0.1]}, "adam_beta2": {"choices": [0.9, 0.99]}}},
}


def grid(tmp_path, **changes):
    file = tmp_path / "compare_p.yaml"
    file.write_text(yaml.safe_dump({**GRID, **changes}))
    return read_grid(file)


def test_every_arm_runs_at_the_same_draws_with_the_same_fresh_seed_and_tasks_share_none(tmp_path):
    cells = paired_cells(grid(tmp_path))
    assert len(cells) == 2 * 5 * 2
    by_arm = {
        arm: [(cell.setting, cell.options["seed"], cell.drawn) for cell in cells if cell.arm == arm]
        for arm in ("AdamW", "LayerNorm")
    }
    assert by_arm["AdamW"] == by_arm["LayerNorm"]
    rates = [cell.options["learning_rate"] for cell in cells if cell.arm == "AdamW"]
    assert len(set(rates)) == 10 and all(1e-3 <= rate <= 0.1 for rate in rates)
    for setting in ("modular", "groups"):
        assert len({cell.options["seed"] for cell in cells if cell.setting == setting}) == 5
    assert [cell for piece in chunks(grid(tmp_path), 4) for cell in piece] == cells


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": "pairs"}, "design='pairs'"),
        ({"paired": None}, "design='paired'"),
        ({"seeds": [1]}, "seeds has no meaning"),
        ({"paired": {**GRID["paired"], "drawz": 1}}, "unknown key 'drawz'"),
        ({"paired": {**GRID["paired"], "also_against": ["Muon"]}}, "'Muon' is not an arm"),
        ({"arms": {"AdamW": {}, "a": {"options": {"learning_rate": 1}}}}, "all arms share what is drawn"),
    ],
)
def test_a_design_that_means_nothing_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        grid(tmp_path, **changes)


def test_crossed_choices_are_all_combinations(tmp_path):
    choices = {"learning_rate": {"choices": [0.01, 0.03]}, "warmup_steps": {"choices": [0, 10, 100]}}
    cells = paired_cells(grid(tmp_path, paired={"draws": 2, "cross": True, "common": choices}))
    assert len(cells) == 2 * 2 * 3 * 2 * 2
    assert len({json.dumps(cell.drawn) for cell in cells}) == 6 and len({cell.options["seed"] for cell in cells}) == 12
    with pytest.raises(ValueError, match="cross needs"):
        grid(tmp_path, paired={**GRID["paired"], "cross": True})


def test_tables_by_value_and_the_best_combination():
    rows = [
        {**row("x", "a", seed, onset), "drawn": {"lr": lr}}
        for seed, (lr, onset) in enumerate([(0.1, None), (0.1, 50.0), (0.2, 20.0), (0.2, 30.0)])
    ]
    assert "| 0.1 | 1 of 2, 75 |" in by_value(rows, "lr") and "| 0.2 | 2 of 2, 25 |" in by_value(rows, "lr")
    assert "| a | lr 0.2 | 2 of 2 | 25 |" in best_values(rows, ["lr"])


def row(setting, arm, seed, onset):
    status = "censored" if onset is None else "solved"
    found = {"setting": setting, "arm": arm, "seed": seed, "status": status, "onset": onset, "stage": "paired"}
    return {**found, "options": {"epochs": 100}, "drawn": {}}


def test_ratios_and_counts_against_a_loop():
    draw = random.Random(0)
    rows = [
        row(setting, arm, seed, draw.choice([None, 10.0, 20.0, 40.0]))
        for setting in ("x", "y")
        for seed in range(9)
        for arm in ("a", "b")
    ]
    logs: dict[str, list[float]] = {"x": [], "y": []}
    earlier = later = 0
    for one in rows:
        for other in rows:
            if (one["arm"], other["arm"]) == ("b", "a") and (one["setting"], one["seed"]) == (other["setting"], other["seed"]):
                ours, theirs = one["onset"] or 100.0, other["onset"] or 100.0
                if one["onset"] or other["onset"]:
                    logs[one["setting"]].append(math.log(theirs / ours))
                    earlier += ours < theirs
                    later += ours > theirs
    found = compare_paired(pairs_of(rows, "b", "a"), {"x": 100.0, "y": 100.0})
    expected = math.exp(sum(sum(own) / len(own) for own in logs.values()) / 2)
    assert found.ratio == pytest.approx(expected) and (found.earlier, found.later, found.draws) == (earlier, later, 18)
    assert found.low < found.ratio < found.high


def test_draws_that_one_arm_was_not_run_at_are_left_out():
    rows = [row("x", "a", 0, 10.0), row("x", "a", 1, 10.0), row("x", "b", 1, 5.0)]
    assert pairs_of(rows, "b", "a") == {"x": [(5.0, 10.0)]}


def test_where_nothing_got_there_nothing_is_said():
    rows = [row("x", arm, seed, None) for arm in ("a", "b") for seed in range(3)]
    found = compare_paired(pairs_of(rows, "b", "a"), {"x": 100.0})
    assert (found.ratio, found.p_value, found.draws) == (None, None, 3)


def test_mean_times_over_all_draws_and_the_draws_that_both_solved_against_a_loop():
    draw = random.Random(1)
    cells = [(setting, arm) for setting in ("x", "y") for arm in ("a", "b")]
    onsets = {cell: [draw.choice([None, 10.0, 20.0, 40.0]) for _ in range(30)] for cell in cells}
    rows = [row(*cell, seed, onset) for cell, own in onsets.items() for seed, onset in enumerate(own)]
    pairs, horizons = pairs_of(rows, "b", "a"), {"x": 100.0, "y": 100.0}
    means = {arm: sum(onset or 100.0 for cell, own in onsets.items() if cell[1] == arm for onset in own) for arm in ("a", "b")}
    ratio, low, high = ratio_of_means(pairs, horizons)
    assert ratio == pytest.approx(means["a"] / means["b"]) and low < ratio < high
    resampled = []
    for _ in range(2000):
        seeds = {setting: draw.choices(range(30), k=30) for setting in ("x", "y")}
        a, b = (sum(onsets[s, arm][i] or 100.0 for s, own in seeds.items() for i in own) for arm in ("a", "b"))
        resampled.append(a / b)
    resampled.sort()
    assert low == pytest.approx(resampled[50], abs=0.02) and high == pytest.approx(resampled[1950], abs=0.02)
    both = where_both(pairs, horizons)
    for setting, own in both.items():
        expected = [pair for pair in zip(onsets[setting, "b"], onsets[setting, "a"], strict=True) if None not in pair]
        assert own == expected
    ends = [compare_paired(pairs, horizons, seed=seed).high for seed in range(3)]
    assert max(ends) - min(ends) < 0.01 * max(ends)


def test_the_page_has_the_share_that_never_got_there_and_mean_times(tmp_path):
    rows = [row("x", "AdamW", seed, None if seed else 40.0) for seed in range(4)]
    rows += [row("x", "LayerNorm", seed, 20.0) for seed in range(4)]
    entries = shares(rows, ["AdamW"])
    assert entries[0]["mean"] == (40 + 300) / 4 and entries[1]["mean"] == 20
    found = entries[1]["against"]["AdamW"]
    assert found.ratio == pytest.approx((2 * 5**3) ** 0.25) and (found.earlier, found.later) == (4, 0)
    data = {"title": "t", "question": "q", "command": "c", "grid": "p", "missing": 0, "reference": "AdamW", "rows": rows}
    text = paired_page({**data, "paired": {"draws": 4, "common": GRID["paired"]["common"], "also_against": []}})
    assert "| LayerNorm | 4.25 (" in text and "2 (2 to 2), 1 draw |" in text  # over all draws, and where both get there
    assert "| AdamW | 1 of 4 | 75% | 85 |" in text and "| LayerNorm | 4 of 4 | 0% | 20 | 3.98 (" in text
