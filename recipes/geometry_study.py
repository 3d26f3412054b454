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
from typing import Any

from hf_radial.comparison.propositions import markdown, summary
from hf_radial.report.page import write_report
from hf_radial.runs.files import keep_run
from hf_radial.runs.processes import as_flags, run_processes
from hf_radial.runs.record import RUN_FILE
from hf_radial.runs.results import RESULTS_FILE

HERE = Path(__file__).parent
TITLE = "Modular addition: geometry with the penalty and without, at three weight decays"


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


# From start to end ----------------------------------------------------------------------------------------------------


def report(study: Study) -> None:
    """Copy what is small of the runs that have ended, and make table and report from the copies."""
    done = [arm for arm in ARMS if study.done(arm)]
    if not done:
        raise SystemExit(f"no run is done in {study.runs}; look at console.log in its folders")
    folder = study.results / "geometry_study"
    for arm in done:
        keep_run(study.folder(arm), folder / arm.name)
    rows = [summary(arm.name, folder / arm.name) for arm in done]
    missing = [arm.name for arm in ARMS if arm not in done]
    data = {"command": "python recipes/geometry_study.py", "scale": study.scale, "not_yet_run": missing, "arms": rows}
    (study.results / "geometry_study.json").write_text(json.dumps(data, indent=1) + "\n")
    (study.results / "geometry_study.md").write_text(markdown(rows, TITLE, missing))
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
