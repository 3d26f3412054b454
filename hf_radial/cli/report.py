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
        "measured meanwhile. Runs that differ only in their seed have one colour.",
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
    report.add_argument("--static", action="store_true", help="still figures instead of interactive ones; needs no JavaScript")
    report.add_argument(
        "--live", action="store_true", help="serve the page on 127.0.0.1 and follow runs that go on, until Ctrl+C"
    )
    report.add_argument("--port", metavar="N", type=int, default=0, help="of --live; any that is free by default")


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status.

    Raises:
        ValueError: options contradict each other, or the port is none.
        OSError: the port is taken.
    """
    metrics = (options.train_metric, options.held_out_metric)
    if options.live:
        written = [f"--{name}" for name in ("out", "figures", "static") if getattr(options, name)]
        if written:
            raise ValueError(f"--live writes no files; leave out {', '.join(written)}, or leave out --live")
        if not 0 <= options.port < 2**16:
            raise ValueError(f"--port {options.port} must be from 0 to 65535")
        from hf_radial.report.live import Live, serve

        serve(Live(options.runs, *metrics, options.title), options.port)
        return 0
    if options.port:
        raise ValueError(f"--port {options.port} is for --live; add it, or leave the port out")
    from hf_radial.report.page import write_report

    print(write_report(options.runs, options.out, options.figures, *metrics, options.title, options.static))
    return 0
