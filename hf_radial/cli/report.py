"""`hf-radial report RUN [RUN ...]`: one page with figures of runs."""

from __future__ import annotations

import argparse
from typing import Any

from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    report = commands.add_parser(
        "report",
        help="a page with figures of runs",
        description="Write one HTML page about runs, with everything in it: when they fitted and generalised, and what was "
        "measured meanwhile. Runs that differ only in their seed become one line with a band.",
    )
    report.set_defaults(run=run)
    report.add_argument("runs", metavar="RUN", nargs="+", help="the output_dir of a run of any Trainer")
    report.add_argument(
        "--out", metavar="DIR_OR_FILE.html", help="RUN/report by default, or report in this folder if there are several runs"
    )
    report.add_argument("--figures", nargs="+", choices=["png", "svg"], default=[], help="also write each figure as a file")
    report.add_argument("--train_metric", metavar="NAME", default=TRAIN_METRIC, help="accuracy on training rows (%(default)s)")
    report.add_argument("--held_out_metric", metavar="NAME", default=HELD_OUT_METRIC, help="on held-out rows (%(default)s)")
    report.add_argument("--title", help="of the page")


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    from hf_radial.report.page import write_report

    print(
        write_report(options.runs, options.out, options.figures, options.train_metric, options.held_out_metric, options.title)
    )
    return 0
