"""What the pages say of results is what the committed data say. (That their tables are current is in test_docs.py.)"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pytest
from pages import said

from hf_radial.geometry.reading import read_table

ROOT = Path(__file__).parents[2]


def study():
    spec = importlib.util.spec_from_file_location("addition_study", ROOT / "recipes" / "addition_study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_of_addition_is_that_of_the_committed_data():
    addition = study()
    data = json.loads((addition.RESULTS / "addition_cpu.json").read_text())
    assert (addition.RESULTS / "addition_cpu.md").read_text() == addition.markdown(data)


def test_what_it_costs_is_what_was_measured():
    sys.path.insert(0, str(ROOT))
    from benchmarks.run import document

    data = json.loads((ROOT / "recipes" / "results" / "benchmarks.json").read_text())
    assert (ROOT / "recipes" / "results" / "benchmarks.md").read_text() == document(data)


def test_where_targets_are_missed_and_why():
    data = json.loads((ROOT / "recipes" / "results" / "benchmarks.json").read_text())
    rows = {row["what"]: row for group in data["groups"].values() for row in group["rows"]}
    parts = {row["what"].partition(" / hand")[0]: row for row in data["groups"]["step-parts"]["rows"]}
    ours, fast, call = (
        f"{statistics.median(parts[name]['values']):.2f}"
        for name in ("RadialTrainer", "Trainer, fast epoch", "hand, the model called")
    )
    assert said(f"`RadialTrainer` takes {ours} times as long as the loop by hand in this measurement, {fast} times without")
    assert said(f"The call of the model, which every trainer makes, takes {call} times as long by itself.")
    eight = rows["8 seeds one after the other / at once: MLP p=97 d=128, CPU"]
    limit = eight["note"].partition(" if the products of matrices were all")[0]
    assert said(f"it would be {limit} times instead of {statistics.median(eight['values']):.2f}")
    speed = json.loads((ROOT / "recipes" / "results" / "compare_speed.json").read_text())
    assert said(f"A comparison makes {speed['times as many']:.1f} times as many runs in a core-hour")
    missed = [row["what"] for row in rows.values() if row["met"] is False]
    kinds = ("lambda 0, CPU", "peak memory of tensors", "8 seeds one after the other")
    assert missed and all(any(kind in what for kind in kinds) for what in missed)


@pytest.mark.parametrize("name", ["addition_cpu.json"])
def test_committed_runs_say_how_to_repeat_them(name):
    data = json.loads((ROOT / "recipes" / "results" / name).read_text())
    runs = [r for r in data["tuning"] + data["judged"] if r.get("status") != "not yet run"]
    assert runs and (ROOT / data["command"].split()[1]).is_file()
    for run in runs:
        environment = run["run"]["environment"]
        assert environment["versions"]["torch"] and environment["machine"]["device"] and environment["revision"]
        assert run["run"]["training_args"]["seed"] == run["seed"]
        assert 0 <= run["test_exact_match"] <= 1 and run["test_problems"] >= 2000


def test_what_the_readme_concludes_is_what_the_data_say():
    data = json.loads((ROOT / "recipes" / "results" / "addition_cpu.json").read_text())
    by_arm = {}
    for run in data["judged"]:
        by_arm.setdefault(run["variant"], {})[run["seed"]] = run
    baseline, warm_up = by_arm["no penalty"], by_arm["warm-up 1000"]
    assert len(baseline) == 5 and all(arms.keys() == baseline.keys() for arms in by_arm.values())
    for run in data["judged"]:
        assert run["held_out_at_fit"] < 0.5 and run["memorised_first"]
        assert run["first_three_99"] is not None

    def ratios(arm):
        return [by_arm[arm][seed]["first_three_99"] / baseline[seed]["first_three_99"] for seed in baseline]

    def median(arm, name):
        return statistics.median(float("inf") if run[name] is None else run[name] for run in by_arm[arm].values())

    for arm in ("paper", "one-sided, target 4"):
        assert sum(ratio > 1 for ratio in ratios(arm)) == 1 and sum(ratio < 1 for ratio in ratios(arm)) >= 3
        assert abs(median(arm, "first_three_99") - median("no penalty", "first_three_99")) <= 100
    assert sum(ratio < 1 for ratio in ratios("warm-up 1000")) == 4 and max(ratios("warm-up 1000")) > 1.1
    assert median("warm-up 1000", "first_three_99") == min(median(arm, "first_three_99") for arm in by_arm)
    assert abs(median("warm-up 1000", "onset_99") - median("no penalty", "onset_99")) <= 100
    thrown_back = {
        arm: sum(run["onset_99"] is None or run["onset_99"] > run["first_three_99"] for run in runs.values())
        for arm, runs in by_arm.items()
    }
    assert all(count >= 1 for count in thrown_back.values())
    assert thrown_back["no penalty"] <= min(thrown_back["paper"], thrown_back["warm-up 1000"])
    for seed, run in baseline.items():
        for site, radii in run["curves"]["radius"].items():
            assert max(radii) < 128**0.5 / 2
            assert warm_up[seed]["curves"]["radius"][site][-1] > radii[-1]
    for variant, best in data["tuned_lambda"].items():
        tried = [run["radial_lambda"] for run in data["tuning"] if run["variant"] == variant]
        assert best in (min(tried), max(tried))
    assert data["tuned_lambda"]["warm-up 1000"] == 0.03


def test_the_presets_own_run_shows_how_chaotic_the_runs_are():
    results = ROOT / "recipes" / "results"
    preset = {run["arm"]: run for run in json.loads((results / "addition_cpu_preset.json").read_text()).values()}
    assert all(run["test"]["exact_match"] >= 0.99 and run["test"]["problems"] >= 2000 for run in preset.values())
    assert all(run["seed"] == 0 and run["environment"]["machine"]["torch_threads"] == 2 for run in preset.values())
    assert abs(preset["none"]["onset_99"] - preset["penalty"]["onset_99"]) <= 100
    judged = json.loads((results / "addition_cpu.json").read_text())["judged"]
    none, warm_up = (
        next(r for r in judged if r["seed"] == 0 and r["variant"] == arm) for arm in ("no penalty", "warm-up 1000")
    )
    assert none["run"]["environment"]["machine"]["torch_threads"] == 1
    assert none["onset_99"] - warm_up["onset_99"] >= 500


def geometry_study():
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import geometry_study
    finally:
        sys.path.pop(0)
    return geometry_study


def test_what_is_said_of_the_three_propositions_is_what_the_six_runs_say():
    study = geometry_study()
    results = ROOT / "recipes" / "results"
    data = json.loads((results / "geometry_study.json").read_text())
    arms = {(arm["weight_decay"], arm["radial_lambda"]): arm for arm in data["arms"]}
    assert len(arms) == 6 and not data["not_yet_run"] and data["scale"] == 1.0
    # The numbers are those of the files beside them, and the tables are made from the numbers.
    for arm in study.ARMS:
        assert study.summary(arm.name, results / "geometry_study" / arm.name) == arms[arm.weight_decay, arm.radial_lambda]
    assert (results / "geometry_study.md").read_text() == study.markdown(data["arms"], study.TITLE, [])

    onset = {key: arm["onset_epoch"] for key, arm in arms.items()}
    assert onset[0.001, 0] is None and arms[0.001, 0]["epochs"] == 2600
    assert round(onset[0.1, 0] / onset[0.1, 0.05], 1) == 1.8
    assert 0 <= onset[1.0, 0] - onset[1.0, 0.05] <= 5
    assert round(onset[0.001, 0.05] / onset[1.0, 0]) == 22
    found = {key: arm["propositions"] for key, arm in arms.items()}
    sites = ("hidden.0", "hidden.1")
    for key, propositions in found.items():
        for site in sites:
            assert propositions["prop1_cosine"][site]["at_fit"] > 0.99, key
            assert propositions["radial_energy"][site]["mean"] > 1, key
        weight_decay = propositions["prop1_weight_decay_cosine"]
        assert weight_decay["hidden.0"]["at_fit"] > 0.7 > weight_decay["hidden.1"]["at_fit"], key
    on_the_sphere = [
        key for key, arm in arms.items() if all(abs(arm["radius"][s] / arm["radius_target"][s] - 1) < 0.005 for s in sites)
    ]
    assert on_the_sphere == [(0.001, 0.05), (0.1, 0.05)]
    assert all(abs(found[key]["prop1_cosine"][site]["last"]) < 0.6 for key in on_the_sphere for site in sites)
    for arm in arms.values():
        for site in sites:  # shorter than the target: the other sign
            if arm["radius"][site] < 0.95 * arm["radius_target"][site]:
                assert arm["propositions"]["prop1_cosine"][site]["last"] < 0
    for weight_decay in (0.001, 0.1, 1.0):
        with_it, without = found[weight_decay, 0.05], found[weight_decay, 0]
        assert all(with_it["radial_energy"][site]["mean"] > without["radial_energy"][site]["mean"] for site in sites)
        assert with_it["normalized_sharpness"]["last"] < without["normalized_sharpness"]["last"]
    flatter = [
        wd for wd in (0.001, 0.1, 1.0) if found[wd, 0.05]["hessian_trace"]["last"] < found[wd, 0]["hessian_trace"]["last"]
    ]
    assert flatter == [0.1, 1.0]
    trace = read_table(results / "geometry_study" / "wd0.001_lambda0" / "geometry.parquet").series("hessian_trace")
    assert trace[max(trace)] < trace[0] / 900 and round(trace[0], 1) == 44.2


def test_measuring_costs_a_small_share():
    assert json.loads((ROOT / "recipes" / "results" / "geometry_cost.json").read_text())["share"] < 0.05
