"""A recipe as a script. Not in here: its options and its folder (`start.py`), which need torch."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_recipe(main: Callable[[list[str]], Any]) -> None:
    """Run a recipe as a script: `main` with the words of the command line, and a mistake of the user as one line.

    An error that this package raises says what to type instead, so that its traceback only hides it. Any other error keeps
    its traceback.
    """
    ours = (str(Path(__file__).resolve().parents[1]), str(Path(sys.argv[0]).resolve().parent))
    try:
        main(sys.argv[1:])
    except (ValueError, ImportError) as error:
        if not str(Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()).startswith(ours):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(1)
