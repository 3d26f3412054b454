"""recipes/matched_onset.py: the study at toy size, and the committed rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

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
