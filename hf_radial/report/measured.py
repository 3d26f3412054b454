"""Figures of measurements, a line per site or per metric: rank, drift, directions, outputs and weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hf_radial.report.added import Caption
from hf_radial.report.canvas import Drawing
from hf_radial.report.captions import SITE_LINES
from hf_radial.report.lines import lines_drawing
from hf_radial.runs.files import Run, Series, short_names


def site_lines(run: Run, metric: str, captions: Mapping[str, Caption] = SITE_LINES) -> Drawing | None:
    """One metric of `captions`, a line per site, and one for the model as a whole if it has the metric."""
    title, label, compare, caption = captions[metric]
    sites = run.sites(metric)
    names = short_names(sites)
    lines = {names[site]: run.series(metric, site) for site in sites}
    if captions is not SITE_LINES and "" in run.measured.get(metric, {}):
        lines["model"] = run.series(metric)
    if metric == "nonfinite" and not any((line.values > 0).any() for line in lines.values()):
        return None  # all vectors are finite, so there is nothing to see
    if metric == "radial_energy_total" and all(_same(run.series(metric, s), run.series("radial_energy", s)) for s in sites):
        return None  # without a penalty, the gradient is the task's
    return lines_drawing(lines, metric, title, label, caption, compare=compare)


def model_lines(run: Run, name: str, title: str, label: str, metrics: dict[str, str], caption: str) -> Drawing | None:
    """Metrics of the whole model, one line each."""
    return lines_drawing({text: run.series(metric) for metric, text in metrics.items()}, name, title, label, caption)


def weight_norm(run: Run) -> Drawing | None:
    """The norm of all weights, and of each module if they were measured."""
    sites = run.sites("weight_norm")
    names = short_names(sites)
    lines = {"all weights": run.series("weight_norm"), **{names[site]: run.series("weight_norm", site) for site in sites}}
    caption = (
        "The length of the weights as one vector, which weight decay makes smaller. Look whether it still grows after the "
        "fit, and whether a fall comes before the onset."
    )
    return lines_drawing(lines, "weight_norm", "Weight norm", "L2 norm of weights", caption)


def _same(one: Series, other: Series) -> bool:
    return np.array_equal(one.steps, other.steps) and np.allclose(one.values, other.values, rtol=1e-6, equal_nan=True)
