"""The geometry of delayed generalisation, with the penalty and without, at three weight decays: six runs of recipes/modular.py.

    python recipes/geometry_study.py --jobs 2        # everything that is not done yet; then the table and the report
    python recipes/geometry_study.py --only-report   # only those, from the runs that are done
    python recipes/geometry_study.py --scale 0.01 --runs /tmp/try --results /tmp/tried --p 23    # a rehearsal

Each arm is one process with one thread. An arm that is done is not run again, one that was interrupted goes on from its last
checkpoint, and one that fails is reported. Options that are not known here go to recipes/modular.py as they are.

What is kept: of each arm the log, the record and the measurements, in recipes/results/geometry_study/ARM; the table of all arms
in recipes/results/geometry_study.json and .md; and the report that `hf-radial report` makes of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hf_radial.geometry.reading import TABLE_FILE, Table, read_table
from hf_radial.report.page import write_report
from hf_radial.runs.files import keep_run
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, curve, summarise
from hf_radial.runs.processes import as_flags, run_processes
from hf_radial.runs.record import RUN_FILE, STATE_FILE
from hf_radial.runs.results import RESULTS_FILE

HERE = Path(__file__).parent
TITLE = "Modular addition: geometry with the penalty and without, at three weight decays"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Arm:
    """One run, without its seed: all arms have the same."""

    weight_decay: float
    radial_lambda: float
    epochs: int
    geometry_every: int  # epochs

    @property
    def name(self) -> str:
        return f"wd{self.weight_decay:g}_lambda{self.radial_lambda:g}"


# Without the penalty, no run with weight decay 1e-3 is known to generalise. This one is as long as its partner.
ARMS = (
    Arm(1e-3, 0.0, epochs=2600, geometry_every=25),
    Arm(1e-3, 0.05, epochs=2600, geometry_every=25),
    Arm(0.1, 0.0, epochs=1600, geometry_every=20),
    Arm(0.1, 0.05, epochs=1000, geometry_every=10),
    Arm(1.0, 0.0, epochs=300, geometry_every=5),
    Arm(1.0, 0.05, epochs=300, geometry_every=5),
)
METRICS = ("radial", "spectrum", "function", "drift", "proposition", "curvature", "fourier")


@dataclass(frozen=True)
class Study:
    """Where the runs are, how long they are, and further options of recipes/modular.py."""

    runs: Path
    results: Path
    scale: float = 1.0
    metrics: Sequence[str] = METRICS
    extra: Sequence[str] = field(default_factory=tuple)

    def folder(self, arm: Arm) -> Path:
        return self.runs / arm.name

    def command(self, arm: Arm) -> list[str]:
        options: dict[str, Any] = {
            "weight_decay": arm.weight_decay,
            "radial_lambda": arm.radial_lambda,
            "num_train_epochs": scaled(arm.epochs, self.scale),
            "output_dir": self.folder(arm),
            "report_to": "none",
            "disable_tqdm": "true",
            # Also for a new run: without a checkpoint, it begins at the beginning.
            "resume_from_checkpoint": "true",
            "geometry_every": scaled(arm.geometry_every, self.scale) if self.metrics else 0,
        }
        metrics = ["--geometry_metrics", *self.metrics] if self.metrics else []
        return [sys.executable, str(HERE / "modular.py"), *as_flags(options), *metrics, *self.extra]

    def done(self, arm: Arm) -> bool:
        """Whether the run has ended.

        Raises:
            ValueError: it has ended, but has another length.
        """
        folder, epochs = self.folder(arm), scaled(arm.epochs, self.scale)
        if not (folder / RESULTS_FILE).is_file():
            return False
        there = json.loads((folder / RUN_FILE).read_text())["training_args"]["num_train_epochs"]
        if there != epochs:
            raise ValueError(f"{str(folder)!r} holds a run of {there:g} epochs, not {epochs}: give another folder with --runs")
        return True


def scaled(epochs: int, scale: float) -> int:
    return max(1, round(epochs * scale))


# The runs -------------------------------------------------------------------------------------------------------------


def run_all(study: Study, jobs: int) -> list[Path]:
    """Run the arms that are not done, the longest first; returns the folders whose run failed."""
    waiting = [arm for arm in sorted(ARMS, key=lambda arm: -arm.epochs) if not study.done(arm)]
    return run_processes({study.folder(arm): study.command(arm) for arm in waiting}, jobs)


# The table ------------------------------------------------------------------------------------------------------------


def summary(arm: Arm, kept: Path) -> dict[str, Any]:
    """One arm's row, from the files that are kept of it."""
    log = json.loads((kept / STATE_FILE).read_text())["log_history"]
    record = json.loads((kept / RUN_FILE).read_text())
    grokking = summarise(log)
    targets = {site["name"]: site["target"] for site in record["radial"]["sites"]}
    radii = {site: curve(log, f"radius/{site}")[1] for site in targets}
    table = read_table(kept / TABLE_FILE) if (kept / TABLE_FILE).is_file() else Table()
    return {
        "arm": arm.name,
        "weight_decay": arm.weight_decay,
        "radial_lambda": arm.radial_lambda,
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


def markdown(rows: Sequence[dict[str, Any]], missing: Sequence[str]) -> str:
    """The arms side by side."""
    lines = [
        f"# {TITLE}",
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


# From start to end ----------------------------------------------------------------------------------------------------


def report(study: Study) -> None:
    """Copy what is small of the runs that have ended, and make table and report from the copies."""
    done = [arm for arm in ARMS if study.done(arm)]
    if not done:
        raise SystemExit(f"no run is done in {study.runs}; look at console.log in its folders")
    folder = study.results / "geometry_study"
    for arm in done:
        keep_run(study.folder(arm), folder / arm.name)
    rows = [summary(arm, folder / arm.name) for arm in done]
    missing = [arm.name for arm in ARMS if arm not in done]
    data = {"command": "python recipes/geometry_study.py", "scale": study.scale, "not_yet_run": missing, "arms": rows}
    (study.results / "geometry_study.json").write_text(json.dumps(data, indent=1) + "\n")
    (study.results / "geometry_study.md").write_text(markdown(rows, missing))
    print(f"table: {study.results / 'geometry_study.md'}, {study.results / 'geometry_study.json'}")
    try:
        print(f"report: {write_report([folder / arm.name for arm in done], folder / 'report.html', title=TITLE)}")
    except (ImportError, ValueError, OSError) as error:
        print(f"no report {folder / 'report.html'}: {error}", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 2), help="runs at a time, one thread each")
    parser.add_argument("--only-report", action="store_true", help="write the files from what is done; run nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/geometry_study"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of what is kept")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all epochs; below 1 for a rehearsal")
    parser.add_argument(
        "--metrics", nargs="*", default=list(METRICS), help="groups of geometry that are measured; may be empty"
    )
    options, extra = parser.parse_known_args(argv)
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs} must be at least 1")
    if not 0 < options.scale <= 1:
        parser.error(f"--scale {options.scale} must be above 0 and at most 1")
    own = {"weight_decay", "radial_lambda", "num_train_epochs", "output_dir", "geometry_every", "geometry_metrics"}
    for word in extra:
        if word.startswith("--") and word[2:].split("=")[0] in own:
            parser.error(f"{word} is what the arms differ in, or what this study sets; leave it out")
    study = Study(options.runs, options.results, options.scale, tuple(options.metrics), tuple(extra))
    for arm in ARMS:  # raises before an hour of runs, not after it
        study.done(arm)
    failed = [] if options.only_report else run_all(study, options.jobs)
    report(study)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
