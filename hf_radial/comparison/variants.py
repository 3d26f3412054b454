"""Runs of several variants of the penalty on the same seeds: their tables and their figure.

A row is one run: `variant`, `radial_lambda`, `seed`, `first_three_99` (the first of three evaluations in a row at 99 %, a step
or `None`), `test_exact_match`, the result of `hf_radial.runs.onset.summarise`, `curves` and `run`. A run that is not done has
`status` instead of results. In here: Markdown and figure. Not in here: which runs there are.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[dict[str, Any]]
COLUMNS = (
    "| arm | lambda | seed | fit | held out at the fit | three at 99 % | stays above 90 % | stays above 99 % | test |",
    "|---|---|---|---|---|---|---|---|---|",
)


def row(r: dict[str, Any]) -> str:
    """The line of one run in a table whose columns are `COLUMNS`."""
    head = f"| {r['variant']} | {r['radial_lambda']:g} | {r['seed']} "
    if "status" in r:
        return head + f"| {r['status']} |  |  |  |  |  |"
    steps = [_step(r[name], r) for name in ("fit_step", "first_three_99", "onset_90", "onset_99")]
    at_fit = "" if r["held_out_at_fit"] is None else f"{r['held_out_at_fit']:.1%}"
    return head + f"| {steps[0]} | {at_fit} | {steps[1]} | {steps[2]} | {steps[3]} | {r['test_exact_match']:.2%} |"


def _step(step: float | None, r: dict[str, Any]) -> str:
    return f"> {r['last_step']:,}" if step is None else f"{step:,.0f}"


def medians(done: Rows, baseline: str) -> list[str]:
    """The lines of the table of medians: one variant in each line. Ratios are to the baseline's onset on the same seed."""
    theirs_by_seed = {r["seed"]: r for r in done if r["variant"] == baseline}
    lines = [
        f"| arm | lambda | runs | fit | three at 99 % | stays above 99 % | mean test | three at 99 % / {baseline}, by seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in dict.fromkeys(r["variant"] for r in done):
        own = [r for r in done if r["variant"] == variant]
        cells = []
        for name in ("fit_step", "first_three_99", "onset_99"):
            # A run without an onset has it after its end. If the median is such a run, it is also only known to be later.
            median = statistics.median(float("inf") if r[name] is None else r[name] for r in own)
            cells.append(_step(None if median == float("inf") else median, own[0]))
        ratios = []
        for r in own:
            mine, theirs = r["first_three_99"], theirs_by_seed.get(r["seed"], {}).get("first_three_99")
            if mine is not None and theirs is not None:
                ratios.append(f"{mine / theirs:.2f}")
            elif theirs is not None:
                ratios.append(f"> {r['last_step'] / theirs:.2f}")
            elif mine is not None:
                ratios.append(f"< {mine / r['last_step']:.2f}")
            else:
                ratios.append("neither got there")
        test = sum(r["test_exact_match"] for r in own) / len(own)
        lines.append(
            f"| {variant} | {own[0]['radial_lambda']:g} | {len(own)} | {' | '.join(cells)} | {test:.2%} | {', '.join(ratios)} |"
        )
    return lines


def plot(judged: Rows, path: Path) -> None:
    """Plot exact match (above) and radii (below) against the step: a column for each variant, a colour for each seed.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hf_radial.report.canvas import COLOURS

    done = [r for r in judged if "status" not in r]
    arms, seeds = (list(dict.fromkeys(r[name] for r in rows)) for name, rows in (("variant", done), ("seed", judged)))
    figure = Figure(figsize=(4 * len(arms), 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(arms), sharex=True, sharey="row", squeeze=False)
    for column, arm in enumerate(arms):
        for r in (r for r in done if r["variant"] == arm):
            colour, curves = COLOURS[seeds.index(r["seed"]) % len(COLOURS)], r["curves"]
            axes[0, column].plot(curves["step"], curves["held_out_exact_match"], color=colour, label=f"seed {r['seed']}")
            axes[0, column].plot(curves["step"], curves["train_exact_match"], color=colour, ls="--", lw=0.8)
            for site, radii in curves["radius"].items():
                axes[1, column].plot(curves["radius_step"], radii, color=colour, lw=0.8, ls="-" if "mlp" in site else ":")
            for target in {site["target"] for site in r["run"]["radial"]["sites"]}:
                axes[1, column].axhline(target, color="0.3", lw=0.8, ls="--")
        axes[0, column].set_title(f"{arm}, lambda {next(r['radial_lambda'] for r in done if r['variant'] == arm):g}")
        axes[1, column].set_xlabel("optimizer step")
    axes[0, 0].set_ylabel("exact match (dashed: training)")
    axes[1, 0].set_ylabel("mean radius (solid: mlp, dotted: attention)")
    axes[0, 0].legend()
    figure.savefig(path, dpi=90)
