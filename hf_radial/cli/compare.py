"""`hf-radial compare [GRID]`: the tables of committed comparisons, in the terminal."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COMPARISONS = Path(__file__).resolve().parents[2] / "recipes" / "results" / "compare"


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    compare = commands.add_parser(
        "compare",
        help="show the tables of comparisons",
        description="Show comparisons of methods: which there are, or the table of one. They are made by recipes/compare.py.",
    )
    compare.set_defaults(run=run)
    compare.add_argument("grid", nargs="?", metavar="GRID", help="its name; without one, all are listed")
    compare.add_argument("--results", type=Path, default=COMPARISONS, metavar="DIR", help="where they are (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    from hf_radial.comparison.table import page_of, summary, terminal

    files = {file.stem: file for file in sorted(options.results.glob("*.json"))}
    if not files:
        raise ValueError(
            f"--results {options.results}: no comparison is there; in a checkout they are in recipes/results/compare, and "
            "recipes/compare.py makes them"
        )
    if options.grid is not None and options.grid not in files:
        raise ValueError(f"GRID {options.grid!r} is unknown; there are {', '.join(files)}")
    for name, file in files.items():
        data = json.loads(file.read_text())
        if options.grid == name:
            print(page_of(data) or f"{data['title']}\n\n{terminal(summary(data['rows'], data['reference']))}")
        elif options.grid is None:
            print(f"{name:20} {data['title']}")
    return 0
