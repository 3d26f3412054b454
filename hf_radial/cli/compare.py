"""`hf-radial compare [GRID]`: the tables of committed comparisons, in the terminal."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hf_radial.runs.shipped import comparisons_folder
from hf_radial.runs.text_files import read_object


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    compare = commands.add_parser(
        "compare",
        help="show the tables of comparisons",
        description="Show comparisons of methods: which there are, or the table of one. `hf-radial run compare` makes them.",
    )
    compare.set_defaults(run=run)
    compare.add_argument("grid", nargs="?", metavar="GRID", help="its name; without one, all are listed")
    compare.add_argument(
        "--results", type=Path, default=comparisons_folder(), metavar="DIR", help="where they are (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    from hf_radial.comparison.table import page_of, summary, terminal

    files = {file.stem: file for file in sorted(options.results.glob("*.json"))}
    if not files:
        raise ValueError(
            f"--results {options.results}: no comparison is there; leave --results out to see the committed ones, or make one "
            "with `hf-radial run compare`"
        )
    if options.grid is not None and options.grid not in files:
        near = get_close_matches(options.grid.lower(), files, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ";"
        raise ValueError(f"GRID {options.grid!r} is unknown{meant} there are {', '.join(files)}")
    for name, file in files.items() if options.grid is None else [(options.grid, files[options.grid])]:
        data = read_object(file, {"title": str, "rows": list, "reference": str})
        if options.grid is None:
            print(f"{name:20} {data['title']}")
            continue
        try:
            text = page_of(data) or f"{data['title']}\n\n{terminal(summary(data['rows'], data['reference']))}"
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file} holds rows that recipes/compare.py did not write: {error!r}") from error
        print(text)
    return 0
