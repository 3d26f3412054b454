"""The pictures of docs/geometry.md: each metric of a network while it groks, with the penalty and without.

Draws recipes/results/geometry_pictures/METRIC.png from two committed runs of recipes/geometry_study.py, in seconds:
`python recipes/geometry_pictures.py`. The network is the paper's MLP on a + b mod 97, at a weight decay of 0.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from hf_radial.report.axes import compact
from hf_radial.report.canvas import LIGHT, Drawing, Theme, new_figure
from hf_radial.report.lines import draw_line
from hf_radial.runs.files import Run, read_run
from hf_radial.runs.onset import HELD_OUT_METRIC, onset_step

RESULTS = Path(__file__).resolve().parent / "results"
PICTURES = RESULTS / "geometry_pictures"
RUNS = {"no penalty": "wd0.1_lambda0", "penalty, lambda 0.05": "wd0.1_lambda0.05"}
SITE = "hidden.1"


class Picture(NamedTuple):
    """What a picture shows: the axis, whether the metric belongs to a site, a value to compare with, a logarithmic axis."""

    label: str
    of_site: bool = True
    compare: tuple[float, str] | None = None
    log: bool = False


METRICS = {
    "radius_mean": Picture("mean radius", compare=(512**0.5, "the paper's target")),
    "radial_energy": Picture("radial energy", compare=(1.0, "a random direction"), log=True),
    "angular_speed": Picture("angle (rad)"),
    "effective_rank": Picture("effective rank"),
    "stable_rank": Picture("stable rank"),
    "cka_previous": Picture("CKA with the one before"),
    "hessian_trace": Picture("Hessian trace", of_site=False, log=True),
    "lambda_max": Picture("largest eigenvalue", of_site=False, log=True),
    "normalized_sharpness": Picture("normalised sharpness", of_site=False, log=True),
    "fourier_r2": Picture("Fourier R²"),
    "neuron_selectivity_mean": Picture("mean selectivity"),
    "prop1_cosine": Picture("cosine with W Σₓ", compare=(1.0, "as predicted")),
    "logit_scale": Picture("scale of the logits", of_site=False),
    "weight_norm": Picture("weight norm", of_site=False),
}


def drawing(metric: str, runs: dict[str, Run]) -> Drawing:
    """One metric of all runs over the optimizer steps, with a line at each run's onset."""
    picture = METRICS[metric]

    def draw(theme: Theme) -> Any:
        figure = new_figure(4.4, 2.2)
        axes = figure.subplots()
        for (label, run), colour in zip(runs.items(), theme.colours, strict=False):
            draw_line(axes, run.series(metric, SITE if picture.of_site else ""), color=colour, label=label)
            onset = onset_step(run.log, HELD_OUT_METRIC)
            if onset is not None:
                axes.axvline(onset, color=colour, lw=1, ls=":")
        if picture.compare is not None:
            axes.axhline(picture.compare[0], color=theme.ink, lw=1, ls="--", label=picture.compare[1])
        if picture.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: compact(value))
        axes.set(xlabel="optimizer step (dotted: the onset)", ylabel=picture.label)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)
        return figure

    return Drawing(metric, picture.label, "", f"{picture.label} of two runs against the optimizer step", draw)


def make(folder: Path = PICTURES) -> list[Path]:
    """Draw every picture."""
    runs = {label: read_run(RESULTS / "geometry_study" / name) for label, name in RUNS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for metric in METRICS:
        files.append(folder / f"{metric}.png")
        files[-1].write_bytes(drawing(metric, runs).render(LIGHT))
    return files


if __name__ == "__main__":
    for file in make():
        print(file, file.stat().st_size)
