"""Which figures the interactive page has, grouped by the question that they answer. The script draws whatever is listed here.

A *source* names where a line comes from: `log:NAME` for a metric of the log, otherwise a metric of `geometry.parquet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_radial.report.added import added_captions
from hf_radial.report.axes import BOUNDED
from hf_radial.report.captions import MODEL_LINES, SITE_LINES
from hf_radial.runs.files import Run


@dataclass(frozen=True)
class Line:
    """One line of every run: the first source that a run has, and what it shows where a figure has several."""

    sources: list[str]
    text: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        id: a name for links.
        title: what it shows.
        label: its value and unit.
        caption: what to look for.
        lines: what is drawn.
        kind: `lines` over steps; at the time cursor `spectrum` (a line per run over an index), `bars` (the focused run);
            `heat` (the focused run, index by step); `neurons`.
        sites: whether there is a panel per site.
        compare: a height to compare with, and its name.
        band: two sources between which the focused run has a band.
        dashed: a source that is drawn as a thin dashed line, the target.
        bounded: the values lie between 0 and 1 or so: their axis is never logarithmic.
        log: whether the axis starts logarithmic; otherwise the script decides by the values.
        axis: the label of the index of `spectrum`, `bars` and `heat`.
    """

    id: str
    title: str
    label: str
    caption: str
    lines: list[Line] = field(default_factory=list)
    kind: str = "lines"
    sites: bool = False
    compare: tuple[float, str] | None = None
    band: list[str] = field(default_factory=list)
    dashed: str = ""
    bounded: bool = False
    log: bool = False
    axis: str = ""


# Metrics with an index: decimals that are kept, and whether values become shares of their sum.
INDEXED: dict[str, tuple[int, bool]] = {
    "fourier_power": (3, True),
    "singular_value": (3, False),
    "neuron_frequency": (0, False),
    "neuron_selectivity": (2, False),
}
RADIUS = ["radius_q50", "radius_mean"]


def catalogue(runs: Sequence[Run], train_metric: str, held_out_metric: str) -> list[dict[str, Any]]:
    """Questions with their figures, as dictionaries for JSON."""
    questions = [
        ("What did the radius do?", [_radius(), *_sites("radial_speed", "radial_energy", "radial_energy_total", "nonfinite")]),
        ("Did it memorise, and then generalise?", [*_losses(runs), *_models("probe_loss", "confidence")]),
        (
            "Which frequencies does the circuit use?",
            [*_frequencies(), *_sites("fourier_r2", "fourier_largest", "neuron_selectivity_mean"), *_models("fourier_losses")],
        ),
        ("How many directions are in use?", [*_sites("effective_rank", "stable_rank", "sigma_max"), _singular_values()]),
        (
            "Did the representations turn?",
            _sites("angular_speed", *(name for name in SITE_LINES if name.startswith(("cka_", "overlap_")))),
        ),
        ("How steep is the loss?", [*_curvature(), *_models("sharpness")]),
        ("How large are weights and outputs?", [_weight_norm(), *_models("logit_scale", "softmax_collapse")]),
        ("Does the penalty pull as predicted?", _sites("prop1_cosine", "prop1_weight_decay_cosine")),
        ("What did other packages measure?", _added(runs)),
    ]
    return [{"question": question, "figures": [asdict(figure) for figure in figures]} for question, figures in questions]


def sources(questions: Sequence[dict[str, Any]], train_metric: str, held_out_metric: str) -> set[str]:
    """Every source that the figures name, the accuracies of the first chart among them."""
    found = {f"log:{train_metric}", f"log:{held_out_metric}", "accuracy", "held_out_accuracy", "radius_target", *RADIUS}
    for question in questions:
        for figure in question["figures"]:
            found |= {source for line in figure["lines"] for source in line["sources"]} | {*figure["band"], figure["dashed"]}
    return found - {""} - INDEXED.keys()


def _radius() -> Figure:
    return Figure(
        "radius",
        "Radius",
        "radius ||h||",
        "The length of the hidden vectors: the median, or the mean where only that was measured. The band of the run in focus "
        "holds 90 % of its vectors. The thin dashed line is the penalty's target; in a run without penalty it is a mark to "
        "compare with. Watch whether the radius goes on growing after the fit.",
        [Line(RADIUS)],
        sites=True,
        band=["radius_q05", "radius_q95"],
        dashed="radius_target",
    )


def _sites(*metrics: str) -> list[Figure]:
    figures = []
    for metric in metrics:
        title, label, compare, caption = SITE_LINES[metric]
        bounded = any(word in label for word in BOUNDED)
        figures.append(Figure(metric, title, label, caption, [Line([metric])], sites=True, compare=compare, bounded=bounded))
    return figures


def _added(runs: Sequence[Run]) -> list[Figure]:
    """Metrics of other packages, of each site or of the model as a whole."""
    figures = []
    for metric, (title, label, _, caption) in added_captions(runs).items():
        places = {site != "" for run in runs for site in run.measured.get(metric, {})}
        for sites in sorted(places, reverse=True):
            name = metric if sites else f"{metric}_model"
            figures.append(Figure(name, title if sites else f"{title}, model", label, caption, [Line([metric])], sites=sites))
    return figures


def _models(*names: str) -> list[Figure]:
    figures = []
    for name, title, label, metrics, caption in MODEL_LINES:
        if name in names:
            lines = [Line([metric], text if len(metrics) > 1 else "") for metric, text in metrics.items()]
            figures.append(Figure(name, title, label, caption, lines, bounded=any(word in label for word in BOUNDED)))
    return sorted(figures, key=lambda figure: names.index(figure.id))


def _losses(runs: Sequence[Run]) -> list[Figure]:
    logged = {name for run in runs for logs in run.log for name in logs}
    evaluated = {name for name in logged if name.startswith("eval_") and name.endswith("_loss")}
    evaluated |= {"eval_train_loss", "eval_validation_loss", "eval_loss"}
    lines = [
        Line([f"log:{name}"], f"{name.removeprefix('eval_').removesuffix('loss').strip('_') or 'evaluation'} rows")
        for name in sorted(evaluated, key=lambda name: ("train" in name, name))
    ]
    return [
        Figure(
            "loss",
            "Training loss",
            "loss (nats)",
            "The loss of training batches, averaged since the log before; of the task alone where the log has it.",
            [Line(["log:task_loss", "log:loss"])],
            log=True,
        ),
        Figure(
            "evaluated_loss",
            "Evaluated loss",
            "loss (nats)",
            "The losses of whole sets of rows. While a model memorises, the loss of held-out rows rises as that of training "
            "rows falls.",
            lines,
            log=True,
        ),
    ]


def _frequencies() -> list[Figure]:
    return [
        Figure(
            "frequencies",
            "How frequencies assemble",
            "share of the power (fraction)",
            "The run in focus. Each row is a frequency, time runs to the right, and a strong colour means that much of the "
            "power is there. An even field that turns into a few rows is the periodic algorithm being built.",
            [Line(["fourier_power"])],
            kind="heat",
            sites=True,
            axis="frequency (cycles per p)",
        ),
        Figure(
            "spectrum",
            "Spectrum at the time cursor",
            "share of the power (fraction)",
            "The run in focus, at the step of the time cursor: one column of the map above.",
            [Line(["fourier_power"])],
            kind="bars",
            sites=True,
            axis="frequency (cycles per p)",
        ),
        Figure(
            "neurons",
            "Neurons in blocks of one frequency",
            "selectivity (fraction of power)",
            "The run in focus, at the step of the time cursor. Each dot is a neuron, sorted by the frequency it answers to "
            "most, and by selectivity within a frequency. High blocks are groups of neurons that share a frequency.",
            [Line(["neuron_selectivity"]), Line(["neuron_frequency"])],
            kind="neurons",
            sites=True,
            bounded=True,
            axis="neurons, by frequency",
        ),
    ]


def _singular_values() -> Figure:
    return Figure(
        "singular_values",
        "Singular values at the time cursor",
        "singular value",
        "The largest singular values of the hidden vectors, at the step of the time cursor. A steep fall means few directions.",
        [Line(["singular_value"])],
        kind="spectrum",
        sites=True,
        log=True,
        axis="index",
    )


def _curvature() -> list[Figure]:
    return [
        Figure(
            "hessian_trace",
            "Hessian trace",
            "trace (nats per squared weight)",
            "The sum of the curvatures of the loss in all directions. It also falls as the training loss nears 0, so that a "
            "small trace alone is no sign of generalisation.",
            [Line(["hessian_trace"])],
        ),
        Figure(
            "lambda_max",
            "Largest curvature and the edge of stability",
            "curvature (nats per squared weight)",
            "The curvature in the steepest direction against 2 / learning rate, above which plain gradient descent would "
            "become unstable; for Adam and the like the limit is another.",
            [Line(["lambda_max"])],
            dashed="two_over_lr",
        ),
    ]


def _weight_norm() -> Figure:
    return Figure(
        "weight_norm",
        "Weight norm",
        "L2 norm of weights",
        "The length of all weights as one vector, which weight decay makes smaller. Look whether it still grows after the fit, "
        "and whether a fall comes before the onset.",
        [Line(["weight_norm"])],
    )
