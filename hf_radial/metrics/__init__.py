"""Metrics of this package as `evaluate` modules that load without a network.

Each is a folder with a script of the same name, which is what `evaluate.load` expects; the functions here find the
folder wherever the package is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    import evaluate

__all__ = ["load_exact_match"]


def load_exact_match(**kwargs: Any) -> evaluate.EvaluationModule:
    """Load the `exact_match` module: share of rows, and of tokens, whose counted ids are all right.

    Args:
        **kwargs: passed to `evaluate.load`. By default rows are kept in memory (writing a file per evaluation is most
            of the time of a small one) under an `experiment_id` of their own, so that instances and processes at work
            at once share nothing.

    Returns:
        The module; its `compute(predictions=..., references=...)` takes rows of token ids, -100 in a reference row
        meaning "do not count this position".

    Example:
        >>> exact_match = load_exact_match()
        >>> exact_match.compute(predictions=[[7, 5, 3], [1, 2, 3]], references=[[-100, 5, 3], [1, 2, 4]])
        {'exact_match': 0.5, 'token_accuracy': 0.8}
    """
    # Here and not above: the import takes seconds, and most users of the package never score.
    import evaluate

    script = Path(__file__).parent / "exact_match" / "exact_match.py"
    return evaluate.load(str(script), **{"keep_in_memory": True, "experiment_id": uuid4().hex, **kwargs})
