"""recipes/geometry_pictures.py: every metric of docs/geometry.md has its picture, and the page says what the runs show."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pages import PAGES, ROOT

from hf_radial.runs.files import read_run
from hf_radial.runs.onset import HELD_OUT_METRIC, onset_step
from recipes.geometry_pictures import METRICS, PICTURES, RESULTS, RUNS, SITE, drawing

PAGE = PAGES["docs/geometry.md"]
MOST_BYTES = 40_000


@pytest.fixture(scope="module")
def runs():
    return {label: read_run(RESULTS / "geometry_study" / name) for label, name in RUNS.items()}


def test_each_metric_of_the_page_has_a_small_picture_and_a_test():
    part = PAGE.split("## What the numbers mean")[1].split("\n## ")[0]
    sections = re.split(r"^### ", part, flags=re.M)[1:]
    shown = []
    for section in sections:
        (name,) = re.findall(r"^!\[.+\]\(../recipes/results/geometry_pictures/(\w+)\.png\)$", section, re.M)
        (oracle,) = re.findall(r"^- \*Tested against\* .*`(tests/geometry/test_\w+\.py)`\.", section, re.M | re.S)
        assert "*How to read it.*" in section and "*In the picture.*" in section and (ROOT / oracle).is_file()
        shown.append(name)
    assert sorted(shown) == sorted(METRICS)
    assert {file.stem for file in PICTURES.glob("*")} == set(METRICS)
    assert all(file.stat().st_size < MOST_BYTES for file in PICTURES.glob("*"))


def test_a_picture_has_both_runs_and_their_onsets(runs):
    assert all(len(run.series(m, SITE if METRICS[m].of_site else "").steps) > 10 for run in runs.values() for m in METRICS)
    assert drawing("radius_mean", runs).render().startswith(b"\x89PNG")


def test_what_the_page_says_of_the_pictures_is_what_the_runs_show(runs):
    without, penalised = runs.values()
    onset, earlier = (onset_step(run.log, HELD_OUT_METRIC) for run in (without, penalised))
    target = 512**0.5

    def series(run, metric):
        return run.series(metric, SITE if METRICS[metric].of_site else "")

    def near_onset(step):
        return abs(step - onset) < 0.05 * onset

    radius, held = series(without, "radius_mean"), series(penalised, "radius_mean")
    assert (radius.values[2:] > 2 * target).all() and near_onset(radius.steps[radius.values.argmax()])
    assert (abs(held.values[held.steps > earlier / 2] / target - 1) < 0.05).all()

    energy, pulled = series(without, "radial_energy"), series(penalised, "radial_energy")
    assert (energy.values[(energy.steps > 0) & (energy.steps < 0.9 * onset)] > 1).all() and (pulled.values[1:] > 1).all()
    common = (pulled.steps > 400) & (pulled.steps < 0.9 * onset)
    assert (pulled.values[common] > np.interp(pulled.steps[common], energy.steps, energy.values)).all()
    assert energy.values.min() < 0.1 and near_onset(energy.steps[energy.values.argmin()])

    for metric, of in (("angular_speed", np.argmax), ("cka_previous", np.argmin)):
        line, calm = series(without, metric), series(penalised, metric)
        late, around = line.steps > 2000, abs(calm.steps - earlier) < 0.1 * earlier
        assert near_onset(line.steps[late][of(line.values[late])]), metric
        assert np.ptp(calm.values[around]) < 0.05, metric

    for run in runs.values():
        rank = series(run, "effective_rank").values
        assert rank[0] > 250 and rank[-1] < 100
    assert series(without, "stable_rank").values[-1] < 1.2 < series(penalised, "stable_rank").values[-1]

    trace = series(without, "hessian_trace")
    assert 0.8 * onset < trace.steps[trace.values.argmin()] < onset
    for run in runs.values():
        for metric in ("hessian_trace", "lambda_max", "normalized_sharpness"):
            assert series(run, metric).values.max() > 1000 * series(run, metric).values.min()
    periodic, earlier_rise = series(without, "fourier_r2"), series(penalised, "fourier_r2")
    assert np.interp(onset, periodic.steps, periodic.values) > 3 * periodic.values[0]
    assert np.interp(earlier, earlier_rise.steps, earlier_rise.values) > 2 * earlier_rise.values[0]
    assert np.interp(earlier, earlier_rise.steps, earlier_rise.values) > 1.3 * np.interp(
        earlier, periodic.steps, periodic.values
    )

    assert (series(without, "prop1_cosine").values[2:] > 0.98).all()
    assert (np.diff(np.sign(series(penalised, "prop1_cosine").values)) != 0).sum() > 10
    for metric in ("logit_scale", "weight_norm"):
        line, lower = series(without, metric), series(penalised, metric)
        assert (lower.values[2:] < np.interp(lower.steps[2:], line.steps, line.values)).all(), metric
