"""`hf-radial --print-completion bash|zsh`: completion of verbs, options, recipes and files in a shell, made by shtab."""

from __future__ import annotations

import argparse
from typing import Any

FILES = {"bash": "_shtab_compgen_files", "zsh": "_files"}
FOLDERS = {"bash": "_shtab_compgen_dirs", "zsh": "_files -/"}
# Arguments that are completed with the names of files or folders, by what the help calls them.
COMPLETED = {
    "FILE": FILES,
    "FILE_OR_NAME": FILES,
    "DIR_OR_FILE.html": FILES,
    "RUN": FOLDERS,
    "RUN_DIR": FOLDERS,
    "DIR": FOLDERS,
}


class PrintCompletion(argparse.Action):
    """Print the completion of a parser for a shell, and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        import shtab

        for each in _parsers(parser):
            for action in each._actions:
                if action.metavar in COMPLETED:
                    action.complete = COMPLETED[action.metavar]  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell=values))
        parser.exit(0)


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of its subcommands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found += _parsers(inner)
    return found
