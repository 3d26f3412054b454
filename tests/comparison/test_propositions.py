"""The numbers that the paper's three propositions are judged by, on made-up measurements and on the committed study."""

from __future__ import annotations

import json
from pathlib import Path

from hf_radial.comparison.propositions import markdown, propositions, summary
from hf_radial.geometry.reading import Reading, Table

RESULTS = Path(__file__).parents[2] / "recipes" / "results"


def test_the_numbers_behind_the_propositions_are_read_by_name() -> None:
    """At the measurement nearest to fit (step 100) and onset (step 290), at the last, and the mean without step 0."""
    table = Table()
    for step, energy in ((0, 8.0), (100, 1.0), (200, 2.0), (300, 6.0)):
        readings = [
            Reading("radial_energy", energy, site="hidden.0"),
            Reading("hessian_trace", 10 * energy, standard_error=0.1),
        ]
        readings += [Reading("prop1_ratio", 7.0, site="hidden.0", index=0)]
        table.add(step, None, readings)
    found = propositions(table, ["hidden.0", "hidden.1"], fit=100, onset=290)
    assert found["radial_energy"]["hidden.0"] == {"at_fit": 1.0, "at_onset": 6.0, "last": 6.0, "mean": 3.0}
    assert found["radial_energy"]["hidden.1"] is None
    assert found["hessian_trace"] == {"at_fit": 10.0, "at_onset": 60.0, "last": 60.0, "mean": 30.0}
    assert found["prop1_cosine"] == {"hidden.0": None, "hidden.1": None} and found["lambda_max"] is None
    assert propositions(Table(), ["hidden.0"], None, None)["hessian_trace"] is None


def test_the_committed_page_is_that_of_its_data() -> None:
    data = json.loads((RESULTS / "geometry_study.json").read_text())
    page = (RESULTS / "geometry_study.md").read_text()
    assert page == markdown(data["arms"], page.partition("\n")[0].removeprefix("# "), data["not_yet_run"])


def test_the_committed_rows_are_those_of_the_files_that_are_kept() -> None:
    data = json.loads((RESULTS / "geometry_study.json").read_text())
    assert [summary(row["arm"], RESULTS / "geometry_study" / row["arm"]) for row in data["arms"]] == data["arms"]
