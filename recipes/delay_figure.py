"""The figure of the README: the delay with the penalty and without, and the radius below it.

Draws recipes/results/delay.png from two runs of recipes/results/geometry_study, at once: `python recipes/delay_figure.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from hf_radial.report.canvas import LIGHT
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = {"no penalty": "wd0.1_lambda0", "penalty, lambda 0.05": "wd0.1_lambda0.05"}
SITE = "hidden.1"


def draw(file: Path) -> None:
    """Accuracy over epochs above, radius over target below; a colour a run."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(LIGHT.rc):
        figure = Figure(figsize=(7.2, 4.4), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for (label, folder), colour in zip(RUNS.items(), LIGHT.colours, strict=False):
            log = json.loads((RESULTS / "geometry_study" / folder / "trainer_state.json").read_text())["log_history"]
            above.plot(*_curve(log, HELD_OUT_METRIC), color=colour, label=f"{label}, held-out rows")
            above.plot(*_curve(log, TRAIN_METRIC), color=colour, linestyle="--", linewidth=1, label=f"{label}, training rows")
            epochs, radii = _curve(log, f"radius/{SITE}")
            target = _curve(log, f"radius_target/{SITE}")[1]
            below.plot(
                epochs, [radius / wanted for radius, wanted in zip(radii, target, strict=True)], color=colour, label=label
            )
        below.axhline(1, color=LIGHT.ink, linewidth=0.8, linestyle=":")
        below.set_xscale("log")
        below.xaxis.set_major_formatter(lambda epoch, _: f"{epoch:,.0f}")
        below.set_ylim(bottom=0)
        above.set_ylabel("exact match")
        below.set_ylabel("radius / target")
        below.set_xlabel("epoch")
        above.legend(loc="center left", bbox_to_anchor=(0.18, 0.5))
        figure.savefig(file, metadata={"Software": None})


def _curve(log: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    entries = [entry for entry in log if name in entry]
    return [entry["epoch"] for entry in entries], [entry[name] for entry in entries]


if __name__ == "__main__":
    draw(RESULTS / "delay.png")
