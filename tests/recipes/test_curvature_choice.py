"""The committed measurement: its table follows from its data, and `curvature.py` describes it correctly."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "recipes" / "curvature_choice.py"


def choice():
    spec = importlib.util.spec_from_file_location("curvature_choice", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, json.loads((module.RESULTS / "curvature_choice.json").read_text())


def test_the_table_is_that_of_the_committed_data():
    module, data = choice()
    assert (module.RESULTS / "curvature_choice.md").read_text() == module.markdown(data)
    assert [result["case"] for result in data["correctness"]] == list(module.SMALL)
    assert [result["case"] for result in data["speed"]] == list(module.LARGE)
    assert data["environment"]["revision"] and data["environment"]["machine"]["device"]


def test_ours_is_exact_where_it_was_measured_and_the_library_is_not_with_layer_norm():
    _, data = choice()
    for result in data["correctness"]:
        assert result["ours_float64"] < 1e-12 and result["ours_float32"] < 1e-5
        assert (result["theirs_float64"] > 1e-2) == result["case"].startswith("GPT-2")
    assert data["layer_norm"]["jvp of jacrev"] > 1e-2
    assert data["layer_norm"]["jvp of grad"] < 1e-12 and data["layer_norm"]["finite differences"] < 1e-6


def test_ours_is_still_exact():
    module, _ = choice()
    with module.sdpa_kernel(module.SDPBackend.MATH):
        result = module.correctness(module.SMALL["GPT-2, tied, padded, a frozen parameter"], peer=False)
    assert result["ours_float64"] < 1e-12 and result["ours_float32"] < 1e-5
