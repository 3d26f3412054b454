"""The three propositions at matched onset: statements, answers and tables on rows whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest

from hf_radial.comparison.matched_onset import (
    ADAMW,
    INITIAL,
    PAPERS,
    Statement,
    answer_table,
    arms_of,
    number_table,
    page,
    run_table,
    statements,
    verdict,
    without_penalty,
)

pytestmark = pytest.mark.quick
RIGHT = {"prop1_cosine": 0.99, "prop1_weight_decay_cosine": 0.5, "prop1_shrink": 0.8, "alignment": 1.0, "radial_energy": 0.2}
CURVED = {"hessian_trace": 10.0, "normalized_sharpness": 5.0}


def row(arm: str, seed: int, site: dict[str, float], curved: dict[str, float]) -> dict[str, Any]:
    """A run whose numbers are the same at each place and site, up to what the seed makes of them."""
    vary = 1 + 0.01 * (seed % 5)
    at = {"epoch": 10.0, "loss": 0.1, **{name: value * vary for name, value in curved.items()}}
    sites = {name: {metric: value * vary**0.1 for metric, value in site.items()} for name in ("hidden.0", "hidden.1")}
    places = {place: {**at, "sites": sites} for place in ("half", "onset", "end")}
    options = {"learning_rate": 0.01, "weight_decay": 1.0}
    kept = {"status": "solved", "fit": 8.0, "onset": 10.0 + seed % 5, "last": 20.0, "options": options}
    return {"model": "MLP", "arm": arm, "seed": seed, **kept, "places": places}


def study(site: dict[str, float], curved: dict[str, float], seeds: int = 5, arms: tuple[str, ...] = (ADAMW,)) -> list[Any]:
    """AdamW with an alignment of 2, a radial energy of 0.4 and the curvature of `CURVED`; the initial radius as given."""
    without = {**RIGHT, "alignment": 2.0, "radial_energy": 0.4}
    plain = [row(arm, seed, without, CURVED) for arm in arms for seed in range(seeds)]
    return plain + [row(INITIAL, seed, site, curved) for seed in range(seeds)]


def answers(rows: list[Any]) -> list[str]:
    found = statements(rows, INITIAL)
    return [verdict([one for one in found if one.proposition == which]).split()[0] for which in (1, 2, 3)]


def test_each_proposition_is_right_where_its_numbers_are() -> None:
    flat = {"hessian_trace": 1.0, "normalized_sharpness": 1.0}
    assert answers(study(RIGHT, flat)) == ["yes", "yes", "yes"]
    wrong = {"prop1_cosine": -0.9, "prop1_weight_decay_cosine": -0.5, "alignment": 3.0, "radial_energy": 2.0}
    sharp = {"hessian_trace": 90.0, "normalized_sharpness": 90.0}
    assert answers(study(wrong, sharp)) == ["no", "no", "no"]
    assert answers(study({**RIGHT, "radial_energy": 0.4}, CURVED)) == ["yes", "undecided", "undecided"]


def test_a_yes_beside_a_no_decides_nothing() -> None:
    half_right = {"hessian_trace": 1.0, "normalized_sharpness": 90.0}
    assert answers(study(RIGHT, half_right))[2] == "undecided"


def test_a_statement_needs_four_seeds_and_an_interval_on_one_side() -> None:
    def answer(*margins: float) -> str:
        return Statement(3, "a", "end", "", ADAMW, margins).answer

    assert answer(1.0, 1.1, 1.2) == "undecided"
    assert answer(1.0, 1.1, 1.2, 1.1) == "yes" and answer(-1.0, -1.1, -1.2, -1.1) == "no"
    assert answer(0.1, 0.1, 0.1, 0.1, -3.0) == "undecided"
    assert answer(0.5, 0.5, 0.5, 0.5) == "yes"  # no spread at all


def test_runs_are_paired_by_seed_and_censored_ones_are_left_out_and_printed() -> None:
    rows = study(RIGHT, {"hessian_trace": 1.0, "normalized_sharpness": 1.0})
    rows[0] |= {"status": "censored", "places": {}, "onset": None, "fit": None, "last": 400.0}
    found = {(one.proposition, one.letter, one.place): one for one in statements(rows, INITIAL)}
    assert len(found[3, "a", "onset"].margins) == 4  # AdamW's seed 0 has no partner
    assert len(found[1, "a", "onset"].margins) == 5
    assert found[3, "a", "onset"].margins == pytest.approx([2.302585] * 4)
    assert "| –, 8, 8, 8, 8 | > 400, 11, 12, 13, 14 |" in run_table(rows)
    assert "| MLP | AdamW | onset | 4 of 5 |" in number_table(rows)
    rows[1] |= {"status": "censored", "places": {}, "onset": None}
    assert answers(rows)[2] == "undecided"  # three pairs


def test_a_number_that_is_not_positive_is_in_no_ratio() -> None:
    rows = study(RIGHT, {"hessian_trace": -1.0, "normalized_sharpness": 1.0})
    traces = [one for one in statements(rows, INITIAL) if (one.proposition, one.letter) == (3, "a")]
    assert traces and all(one.margins == () and one.answer == "undecided" for one in traces)


def test_a_penalty_is_also_compared_at_its_own_settings() -> None:
    same = without_penalty(INITIAL)
    rows = study(RIGHT, CURVED, arms=(ADAMW, same))
    assert arms_of(rows) == [ADAMW, same, INITIAL]
    assert {one.reference for one in statements(rows, INITIAL) if one.proposition == 3} == {ADAMW, same}
    assert not any(row["arm"] == PAPERS for row in rows) and PAPERS not in answer_table(rows)


def test_a_page_of_runs_that_are_all_censored_has_no_answer() -> None:
    rows = study(RIGHT, CURVED)
    for one in rows:
        one |= {"status": "censored", "places": {}, "onset": None}
    text = page({"command": "python x.py", "missing": 3, "rows": rows}, "A title", "The criteria.")
    assert "3 runs are not made yet." in text and "The criteria." in text and "MLP: none measured" in text
    assert answers(rows) == ["undecided"] * 3
