"""Metrics of this package as `evaluate` modules that load without a network.

Each is a folder with a script of the same name, which is what `evaluate.load` expects; the functions here find the
folder wherever the package is installed. `answers.py` applies `exact_match` to the answers of a language model.

By default rows are kept in memory, since a file per evaluation takes most of the time of a small one. Each instance has its own
`experiment_id`, so that instances and processes that run at the same time share nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    import evaluate

__all__ = ["load_exact_match", "load_grokking", "load_per_digit_accuracy"]


def load_exact_match(**kwargs: Any) -> evaluate.EvaluationModule:
    """Load the `exact_match` module: share of rows, and of tokens, whose counted ids are all right.

    Args:
        **kwargs: passed to `evaluate.load`; the defaults are in this file's docstring.

    Returns:
        The module; its `compute(predictions=..., references=...)` takes rows of token ids, -100 in a reference row
        meaning "do not count this position". A causal language model predicts the next position: in `compute_metrics`,
        compare `predictions[:, :-1]` with `label_ids[:, 1:]`.

    Raises:
        OSError: the cache of `evaluate` cannot be written.

    Example:
        >>> exact_match = load_exact_match()
        >>> exact_match.compute(predictions=[[7, 5, 3], [1, 2, 3]], references=[[-100, 5, 3], [1, 2, 4]])
        {'exact_match': 0.5, 'token_accuracy': 0.8}
    """
    return _load("exact_match", kwargs)


def load_per_digit_accuracy(**kwargs: Any) -> evaluate.EvaluationModule:
    """Load the `per_digit_accuracy` module: for each digit of the answer, by place value, the share of rows that have it right.

    Args:
        **kwargs: as in `load_exact_match`.

    Returns:
        The module; its `compute(predictions=..., references=..., reverse=..., ignore_ids=())` takes rows of token ids, -100 in
        a reference row meaning "no part of the answer", or strings of digits. `reverse` says whether answers are written units
        first. In every list that it returns the units come first.

    Example, 57 and 8 written units first, with an end sign of id 11:
        >>> per_digit = load_per_digit_accuracy()
        >>> rows = {"predictions": [[1, 7, 4, 11], [1, 8, 11]], "references": [[-100, 7, 5, 11], [-100, 8, 11]]}
        >>> per_digit.compute(**rows, reverse=True, ignore_ids=[11])
        {'digit_accuracy': [1.0, 0.0], 'digit_count': [2, 1], 'mean_digit_accuracy': 0.5}
    """
    return _load("per_digit_accuracy", kwargs)


def load_grokking(**kwargs: Any) -> evaluate.EvaluationModule:
    """Load the `grokking` module: when a run fitted its training rows, when it generalised, and the delay between them.

    Args:
        **kwargs: as in `load_exact_match`.

    Returns:
        The module; its `compute(log_history=trainer.state.log_history, train_metric=..., held_out_metric=...)`, or
        `compute(steps=..., train=..., held_out=...)`, returns what `hf_radial.runs.onset.summarise` does.

    Example:
        >>> summary = load_grokking().compute(steps=[100, 200, 300], train=[0.5, 1.0, 1.0], held_out=[0.0, 0.1, 0.95])
        >>> {name: summary[name] for name in ("fit_step", "onset_90", "delay_90", "onset_99", "onset_99_censored", "last_step")}
        {'fit_step': 200, 'onset_90': 300, 'delay_90': 100, 'onset_99': None, 'onset_99_censored': True, 'last_step': 300}
    """
    return _load("grokking", kwargs)


def _load(name: str, kwargs: dict[str, Any]) -> evaluate.EvaluationModule:
    # Imported here, since it takes seconds and most users never score.
    import evaluate

    script = Path(__file__).parent / name / f"{name}.py"
    try:
        return evaluate.load(str(script), **{"keep_in_memory": True, "experiment_id": uuid4().hex, **kwargs})
    except OSError as error:  # the module is copied into a cache, and that one is not where the error's path seems to be
        raise type(error)(
            f"the cache of evaluate cannot be written: {error}. Set HF_HOME to a folder that can, before Python starts."
        ) from error
