"""Which figures a run has, in the order of a report. Each takes a run and gives a `Drawing`, or `None` without data for it.

Every figure is one idea and can be read on a phone. The figures themselves are in the other files of this folder, by kind.
Nothing here reads files or writes HTML. Needs matplotlib (`pip install hf_radial[plots]`).
"""

from __future__ import annotations

from hf_radial.report.accuracy_loss import accuracy, loss
from hf_radial.report.added import added_captions
from hf_radial.report.canvas import Drawing
from hf_radial.report.captions import MODEL_LINES, SITE_LINES
from hf_radial.report.curvature import hessian_trace, lambda_max
from hf_radial.report.fourier import frequencies, neurons
from hf_radial.report.measured import model_lines, site_lines, weight_norm
from hf_radial.report.radii import radii
from hf_radial.runs.files import Run
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC


def figures_of(
    run: Run, train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC
) -> list[tuple[str, list[Drawing]]]:
    """All figures that a run has data for, by section."""
    added = added_captions([run])
    models = {name: model_lines(run, *spec) for spec in MODEL_LINES for name in [spec[0]]}
    sections: list[tuple[str, list[Drawing | None]]] = [
        ("Accuracy and loss", [accuracy(run, train_metric, held_out_metric), loss(run), models["probe_loss"]]),
        ("Radius of the hidden vectors", [*radii(run), *(site_lines(run, name) for name in ("radial_speed", "nonfinite"))]),
        ("Directions of gradients and vectors", _lines_of_sites(run, "radial_energy", "radial_energy_total", "angular_speed")),
        ("Rank", _lines_of_sites(run, "effective_rank", "stable_rank", "sigma_max")),
        ("Drift of representations", _lines_of_sites(run, *(n for n in SITE_LINES if n.startswith(("cka_", "overlap_"))))),
        ("Curvature", [hessian_trace(run), lambda_max(run), models["sharpness"]]),
        (
            "Frequencies",
            [
                *frequencies(run),
                *_lines_of_sites(run, "fourier_r2", "fourier_largest"),
                models["fourier_losses"],
                *neurons(run),
                *_lines_of_sites(run, "neuron_selectivity_mean"),
            ],
        ),
        (
            "Outputs and weights",
            [weight_norm(run), *(models[name] for name in ("logit_scale", "softmax_collapse", "confidence"))],
        ),
        ("The penalty's pull on the weights", _lines_of_sites(run, "prop1_cosine", "prop1_weight_decay_cosine")),
        ("Metrics of other packages", [site_lines(run, metric, added) for metric in added]),
    ]
    kept = [(title, [drawing for drawing in drawings if drawing is not None]) for title, drawings in sections]
    return [(title, drawings) for title, drawings in kept if drawings]


def _lines_of_sites(run: Run, *metrics: str) -> list[Drawing | None]:
    return [site_lines(run, metric) for metric in metrics]
