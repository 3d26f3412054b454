"""Numbers for the paper's three propositions from runs of the modular MLP: a row for each run, and tables of the rows.

A row is what `summary` returns. It is made of the files that are kept of a run: its log, its `run.json` and its measurements.
In here: rows, numbers, tables. Not in here: runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hf_radial.geometry.reading import TABLE_FILE, Table, read_table
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, curve, summarise
from hf_radial.runs.record import RUN_FILE, STATE_FILE

NOT_MEASURED = "not measured"


def summary(name: str, kept: Path) -> dict[str, Any]:
    """The row of a run.

    Args:
        name: of its arm.
        kept: folder of the files that are kept of it.
    """
    log = json.loads((kept / STATE_FILE).read_text())["log_history"]
    record = json.loads((kept / RUN_FILE).read_text())
    grokking = summarise(log)
    targets = {site["name"]: site["target"] for site in record["radial"]["sites"]}
    radii = {site: curve(log, f"radius/{site}")[1] for site in targets}
    table = read_table(kept / TABLE_FILE) if (kept / TABLE_FILE).is_file() else Table()
    return {
        "arm": name,
        "weight_decay": record["training_args"]["weight_decay"],
        "radial_lambda": record["radial"]["radial_lambda"],
        "seed": record["training_args"]["seed"],
        "epochs": grokking["last_epoch"],
        "fit_epoch": grokking["fit_epoch"],
        "onset_epoch": grokking["onset_90_epoch"],
        "delay_epochs": grokking["delay_90_epochs"],
        "train_exact_match": curve(log, TRAIN_METRIC)[1][-1],
        "held_out_exact_match": curve(log, HELD_OUT_METRIC)[1][-1],
        "radius": {site: values[-1] if values else None for site, values in radii.items()},
        "radius_target": targets,
        "propositions": propositions(table, list(targets), grokking["fit_step"], grokking["onset_90"]),
    }


def propositions(table: Table, sites: Sequence[str], fit: int | None, onset: int | None) -> dict[str, Any]:
    """The numbers that the paper's three propositions are judged by; `None` for a number that was not measured.

    Each number is given at the first measurement from the fit on, at the first from the onset on, at the last one, and as the
    mean over all measurements except the one before training.
    """
    found: dict[str, Any] = {"radial_energy": {}, "prop1_cosine": {}, "prop1_weight_decay_cosine": {}}
    for metric, by_site in found.items():
        for site in sites:
            by_site[site] = moments(table.series(metric, site), fit, onset)
    for metric in ("hessian_trace", "lambda_max", "normalized_sharpness"):
        found[metric] = moments(table.series(metric), fit, onset)
    return found


def moments(values: dict[int, float], fit: int | None, onset: int | None) -> dict[str, float | None] | None:
    """A series at four moments, or `None` if it is empty.

    >>> moments({0: 4.0, 10: 3.0, 20: 1.0}, fit=9, onset=None)
    {'at_fit': 3.0, 'at_onset': None, 'last': 1.0, 'mean': 2.0}
    """
    if not values:
        return None

    def first_from(step: int | None) -> float | None:
        # Not the nearest measurement: for an early fit, that may be the one before training.
        return None if step is None else values[min((at for at in values if at >= step), default=max(values))]

    trained = [value for step, value in values.items() if step > 0] or list(values.values())
    return {"at_fit": first_from(fit), "at_onset": first_from(onset), "last": values[max(values)], "mean": fmean(trained)}


def markdown(rows: Sequence[dict[str, Any]], title: str, missing: Sequence[str]) -> str:
    """The page of a study.

    Args:
        rows: of `summary`.
        title: of the page.
        missing: arms that are not run yet.
    """
    lines = [
        f"# {title}",
        "",
        "Made by `python recipes/geometry_study.py` from the files in geometry_study/. One seed an arm; epochs of evaluations.",
        "*Fit*: training exact match reaches 99 %. *Onset*: held-out exact match stays at or above 90 % from there on.",
        "An entry `> N` was not reached by epoch N, the end of the run.",
        "",
        "| weight decay | lambda | seed | fit | onset | delay | training, last | held out, last | radius / target, last |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        epochs = fit_and_onset(row)
        if row["delay_epochs"] is not None:
            delay = f"{row['delay_epochs']:g}"
        else:
            delay = "" if row["fit_epoch"] is None else f"> {row['epochs'] - row['fit_epoch']:g}"
        radii = [f"{site}: {number(row['radius'][site])} / {number(target)}" for site, target in row["radius_target"].items()]
        lines.append(
            f"| {row['weight_decay']:g} | {row['radial_lambda']:g} | {row['seed']} | {epochs[0]} | {epochs[1]} | {delay} "
            f"| {row['train_exact_match']:.2%} | {row['held_out_exact_match']:.2%} | {'; '.join(radii)} |"
        )
    lines += [f"Not yet run: {', '.join(missing)}."] * bool(missing)
    lines += [
        "",
        "## What the paper's three propositions are judged by",
        "",
        "At the first measurement from the fit on, the first from the onset on, at the end, and the mean over the run.",
        "*Radial energy*: 1 is isotropic (proposition 2). *Cosine*: between the penalty's gradient on the layer's weight and",
        "`W Sigma_x` (proposition 1), negative where vectors are shorter than the target, so that the penalty lengthens them;",
        "beside it that with the weight itself, which weight decay pulls along. Runs without the penalty: of the penalty that",
        "they would have. *Hessian trace*: of the task loss (proposition 3).",
        "",
        "| weight decay | lambda | what | at the fit | at the onset | at the end | mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, values in flat(row["propositions"]).items():
            head = f"| {row['weight_decay']:g} | {row['radial_lambda']:g} | {name} "
            if values is None:
                lines.append(head + f"| {NOT_MEASURED} |  |  |  |")
            else:
                cells = [number(values[moment]) for moment in ("at_fit", "at_onset", "last", "mean")]
                lines.append(head + f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def readme_table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in the README: a row an arm, what the three propositions are about at the end of the run."""
    lines = [
        "| weight decay | lambda | fit | onset | radius / target | radial energy, mean | cosine with `W Sigma_x`, end | "
        "Hessian trace, end | normalised sharpness, end |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        epochs = fit_and_onset(row)
        found, sites = row["propositions"], list(row["radius_target"])
        radii = ", ".join(f"{row['radius'][site] / row['radius_target'][site]:.2f}" for site in sites)
        energy, cosine = (
            ", ".join(number(found[metric][site][moment]) for site in sites)
            for metric, moment in (("radial_energy", "mean"), ("prop1_cosine", "last"))
        )
        cells = [*epochs, radii, energy, cosine, *(number(found[m]["last"]) for m in ("hessian_trace", "normalized_sharpness"))]
        lines.append(f"| {row['weight_decay']:g} | {row['radial_lambda']:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fit_and_onset(row: dict[str, Any]) -> list[str]:
    """The epochs of fit and onset; `> N` where the run ended at epoch N without it."""
    return [f"> {row['epochs']:g}" if row[name] is None else f"{row[name]:g}" for name in ("fit_epoch", "onset_epoch")]


def flat(found: dict[str, Any]) -> dict[str, dict[str, float | None] | None]:
    """Metric, or metric and site -> moments."""
    by_site = ("radial_energy", "prop1_cosine", "prop1_weight_decay_cosine")
    rows = {f"{metric}, {site}": values for metric in by_site for site, values in found[metric].items()}
    return rows | {metric: values for metric, values in found.items() if metric not in by_site}


def number(value: float | None) -> str:
    """Four digits; nothing where there is no such moment.

    >>> number(22.627), number(None)
    ('22.63', '–')
    """
    return "–" if value is None else f"{value:.4g}"
