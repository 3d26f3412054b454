"""`hf-radial methods [NAME]`: the ways to train differently, and the card of one."""

from __future__ import annotations

import argparse
import re
from typing import Any

LINK = re.compile(r"\[(\w+)\]\(\S+\)")


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    methods = commands.add_parser(
        "methods",
        help="show the interventions",
        description="Show all interventions, those of other packages too; or the card of one: what it does, its options, what "
        "was measured.",
    )
    methods.set_defaults(run=run)
    methods.add_argument("name", nargs="?", metavar="NAME", help="such as radial, dropout or muon; without one, all are listed")


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    from hf_radial.comparison.method_card import card, list_of_methods
    from hf_radial.interventions import INTERVENTIONS

    if options.name is not None and options.name not in INTERVENTIONS:
        raise ValueError(f"NAME {options.name!r} is unknown; {INTERVENTIONS.unknown(options.name)}")
    # The links of a card are to pages of the documentation.
    print(list_of_methods() if options.name is None else LINK.sub(r"`hf-radial compare \1`", card(options.name)))
    return 0
