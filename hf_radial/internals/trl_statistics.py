"""Statistics that trl's trainers collect of every batch for their next log. Checked with trl 1.16."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOTED = ("_metrics", "_total_train_tokens")


@contextmanager
def statistics_kept(trainer: Any) -> Iterator[None]:
    """Undo what a measurement adds to the statistics of trl's trainers. Another trainer has none."""
    noted = {name: copy.deepcopy(value) for name, value in vars(trainer).items() if name in NOTED}
    try:
        yield
    finally:
        vars(trainer).update(noted)
