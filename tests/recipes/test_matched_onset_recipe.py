"""recipes/matched_onset.py: the study at toy size, and the committed rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hf_radial.comparison.matched_onset import by_model, geometric, numbers_at, sites_of, statements, verdict
from hf_radial.comparison.run import make_run
from recipes import matched_onset
from recipes.matched_onset import GROUPS, NAME, RESULTS, SEEDS, TINY, main, make_row, page, settings


def test_settings_are_those_that_the_committed_grids_were_tuned_to():
    found = settings()
    assert list(found) == ["MLP", "transformer"]
    for arms in found.values():
        tuned = {name: options["learning_rate"] for name, options in arms.items()}
        assert tuned["AdamW, settings of paper's radius"] == tuned["paper's radius"]
        assert tuned["initial radius"] == tuned["AdamW"] and "AdamW, settings of initial radius" not in arms
        assert "radial_lambda" in arms["paper's radius"] and "interventions" in arms["initial radius"]
        assert not {"radial_lambda", "interventions", "seed"} & arms["AdamW"].keys()


@pytest.fixture(scope="module")
def row():
    return make_row("MLP", "initial radius", 0, {**settings()["MLP"]["initial radius"], **TINY})


def test_a_run_is_measured_at_places_relative_to_its_own_onset(row):
    half, onset, end = (row["places"][place] for place in GROUPS)
    assert row["status"] == "solved" and (onset["epoch"], end["epoch"]) == (row["onset"], row["last"])
    assert abs(half["epoch"] - row["onset"] / 2) <= row["options"]["evaluate_every"]
    assert "hessian_trace" not in half and onset["hessian_trace"] > 0 and end["normalized_sharpness"] > 0
    for place in row["places"].values():
        assert list(place["sites"]) == ["hidden.0", "hidden.1"] and place["loss"] > 0
        for site in place["sites"].values():
            assert {"alignment", *matched_onset.OF_SITES} == site.keys()


def test_the_numbers_are_of_the_weights_that_the_run_had_there(row, tmp_path):
    """The same run once more, ended at its onset: the model's radii are those of the row."""
    seen = {}

    def measure(trainer, result):
        batch = trainer.train_dataset.first(matched_onset.PROBE_ROWS).columns
        seen.update(matched_onset.numbers(trainer.model, batch, trainer.radial_penalty, GROUPS["half"]))

    options = {**row["options"], "epochs": int(row["onset"]), "stop": False, "seed": 0}
    assert make_run(tmp_path, options, measure)["last"] == row["onset"]
    there = row["places"]["onset"]
    assert seen["loss"] == pytest.approx(there["loss"], rel=1e-3)
    for name, site in seen["sites"].items():
        assert site == pytest.approx({metric: there["sites"][name][metric] for metric in site}, rel=1e-3)


def test_alignment_is_one_for_isotropic_inputs_and_d_in_for_a_single_direction():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, generator=generator)
    x = torch.randn(100_000, 5, generator=generator)
    assert matched_onset.alignment(x, weight) == pytest.approx(1, abs=0.02)
    assert matched_onset.alignment(weight[:1], weight[:1]) == pytest.approx(5)


def test_the_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    made = []

    def fake(model, arm, seed, options):
        made.append((model, arm, seed))
        if len(made) == 3:
            raise KeyboardInterrupt
        kept = {"status": "censored", "fit": None, "onset": None, "last": 60.0, "test": 0.1}
        return {"model": model, "arm": arm, "seed": seed, **kept, "options": options, "places": {}}

    monkeypatch.setattr(matched_onset, "make_row", fake)
    with pytest.raises(KeyboardInterrupt):
        main(["--rehearse", "--results", str(tmp_path)])
    file = tmp_path / f"{NAME}.json"
    assert len(json.loads(file.read_text())["rows"]) == 2
    main(["--rehearse", "--results", str(tmp_path)])
    data = json.loads(file.read_text())
    cells = [(row["model"], row["arm"], row["seed"]) for row in data["rows"]]
    assert data["missing"] == 0 and len(set(cells)) == len(cells) == 16 and len(made) == 17
    text = file.with_suffix(".md").read_text()
    assert text == page(data) and "> 60, > 60" in text
    count = len(made)
    main(["--table", "--rehearse", "--results", str(tmp_path)])
    assert len(made) == count


def test_mistakes_are_said_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="give another folder with --results"):
        main(["--rehearse"])
    with pytest.raises(ValueError, match="--table: there is no"):
        main(["--table", "--results", str(tmp_path)])


def committed():
    return json.loads((RESULTS / f"{NAME}.json").read_text())


def test_every_planned_run_is_committed_and_its_page_is_made_from_it():
    data = committed()
    cells = {(row["model"], row["arm"], row["seed"]) for row in data["rows"]}
    assert cells == {(model, arm, seed) for model, arms in settings().items() for arm in arms for seed in SEEDS}
    assert data["missing"] == 0 and len(cells) == len(data["rows"])
    assert all(row["options"] == settings()[row["model"]][row["arm"]] for row in data["rows"])
    assert (RESULTS / f"{NAME}.md").read_text() == page(data)
    assert "dirty" not in data["environment"]["revision"]
    assert str(Path.home()) not in json.dumps(data) and "/tmp" not in json.dumps(data)


def test_what_the_page_says_of_five_seeds_is_what_the_rows_say():
    rows = by_model(committed()["rows"])
    found = {(model, arm): statements(own, arm) for model, own in rows.items() for arm in ("paper's radius", "initial radius")}

    def answers(which, model, arm):
        return verdict([one for one in found[model, arm] if one.proposition == which]).split()[0]

    def values(model, arm, place, site, metric):
        return [numbers[metric] for numbers in numbers_at(rows[model], arm, place, site).values()]

    # Proposition 1
    assert answers(1, "transformer", "initial radius") == "yes"
    assert all(answers(1, *cell) == "undecided" for cell in found if cell != ("transformer", "initial radius"))
    for site in sites_of(rows["transformer"]):
        for place in ("half", "onset"):
            # The mean of R/r is below 0.01.
            assert sum(values("transformer", "initial radius", place, site, "prop1_shrink")) / 4 > 0.99
    onsets = {(row["arm"], row["seed"]): row["onset"] for row in rows["transformer"] if row["status"] == "solved"}
    pairs = [(onsets["initial radius", s], onsets["AdamW", s]) for s in SEEDS if ("AdamW", s) in onsets]
    assert (sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)) == (2, 2)
    attention = sites_of(rows["transformer"])[0]
    for place in ("half", "onset"):
        assert max(values("transformer", "paper's radius", place, attention, "prop1_shrink")) < 0
        assert max(values("transformer", "paper's radius", place, attention, "prop1_cosine")) < -0.98
    for arm in ("paper's radius", "initial radius"):
        assert abs(sum(values("MLP", arm, "onset", "hidden.0", "prop1_shrink")) / 5) < 0.03
        assert sum(values("MLP", arm, "onset", "hidden.0", "prop1_cosine")) < 0
    # Proposition 2
    assert {answers(2, *cell) for cell in found} == {"no", "undecided"}
    for model, own in rows.items():
        for arm in settings()[model]:
            assert all(geometric(values(model, arm, "onset", site, "radial_energy")) > 1 for site in sites_of(own))
    right = [(*cell, s.place, s.site) for cell, own in found.items() for s in own if s.proposition == 2 and s.answer == "yes"]
    assert set(right) == {("MLP", "initial radius", "half", "hidden.0")}
    # Proposition 3
    assert all(answers(3, "MLP", arm) == "yes" for arm in ("paper's radius", "initial radius"))
    for cell, own in found.items():
        for one in (one for one in own if one.proposition == 3):
            if cell[0] == "transformer":
                assert one.answer == "undecided"
            else:
                low, high = (2, 4) if one.letter == "a" else (3, 6)
                assert low <= math.exp(one.interval[0]) <= high
    # Censored runs
    censored = [(row["model"], row["arm"]) for row in committed()["rows"] if row["status"] != "solved"]
    assert sorted(censored) == [
        ("MLP", "AdamW, settings of paper's radius"),
        ("transformer", "AdamW"),
        ("transformer", "initial radius"),
    ]
