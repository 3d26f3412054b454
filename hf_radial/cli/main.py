"""The command line.

hf-radial run RECIPE [OPTIONS]           train: addition, modular, compare or sweep, under accelerate launch
hf-radial sites MODEL_OR_CONFIG           where the penalty would go in a model, and whether that is right
hf-radial tasks [TASK [CONFIG]]           the algorithmic tasks, the fields of one, what a configuration holds
hf-radial methods [NAME]                  the ways to train differently, the card of one
hf-radial report RUN [RUN ...]            one page about runs: when they generalised, and the geometry meanwhile; --live follows
hf-radial compare [GRID]                  the tables of committed comparisons, in the terminal
hf-radial publish dataset|model ...       to a Hub, with a card
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hf_radial.cli import compare, methods, publish, report, run, sites, tasks
from hf_radial.cli.completion import PrintCompletion

VERBS = (run, sites, tasks, methods, report, compare, publish)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit status: 0; 1 if a check failed; 2 for an error that the user can correct."""
    parser = argparse.ArgumentParser(
        prog="hf-radial", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=["bash", "zsh"], help="print completion for a shell, and end"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for verb in VERBS:
        verb.add_to(commands)
    options = parser.parse_args(argv)
    try:
        for name, value in vars(options).items():
            if value == "" or (isinstance(value, list) and "" in value):
                raise ValueError(f"{name} is empty; give a value, or leave it out")
        return options.run(options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        about = f"{options.model!r}: " if options.command == "sites" else ""
        print(f"hf-radial: error: {about}{error}", file=sys.stderr)
        return 2
