"""Fit, onset and delay of a run, as an `evaluate` module. Load it with `hf_radial.metrics.load_grokking()`.

The definitions are those of `hf_radial.runs.onset`, which this file imports. `evaluate` copies this file into its own folder
and imports it from there. The installed package must therefore be importable.
"""

from itertools import pairwise
from typing import Any

# One import per line: the import parser of `evaluate` does not understand `import datasets, evaluate`.
import datasets
import evaluate

from hf_radial.runs import onset as grokking

_DESCRIPTION = """
Delayed generalisation: when a run fitted its training rows (training accuracy of at least 99 %), when it generalised (the first
evaluation from which held-out accuracy stays at or above 90 %, and 99 %, to the end of the log), and the delay between the two,
in optimizer steps and epochs. If a run has not reached a point at its last evaluation, the value is `None` and marked as
censored.
"""

_CITATION = """
The onset at 90 %: arXiv 2606.32000.
"""

_INPUTS = """
Args:
    log_history: `trainer.state.log_history`, or that of a `trainer_state.json`. Give either it, or steps, train and held_out.
    steps, train, held_out: optimizer steps of the evaluations, in ascending order, with the accuracies on training rows and on
        held-out rows, as fractions of 1.
    train_metric, held_out_metric: names of the two accuracies in `log_history`; by default `"eval_train_exact_match"` and
        `"eval_validation_exact_match"`.
    thresholds: held-out accuracies whose onsets are computed, `(0.9, 0.99)` by default.
    fit_threshold: training accuracy that counts as fitted, `0.99` by default.

Returns:
    The result of `hf_radial.runs.onset.summarise`: fit_step, onset_90, onset_99, delay_90, delay_99, each with its epoch(s),
        the values that are censored, last_step, last_epoch, last_held_out, held_out_at_fit and memorised_first. There are no
        epochs if `steps` were given.

Raises:
    ValueError: there is no evaluation, a metric is not in the log, or an accuracy is above 1.
"""


class Grokking(evaluate.Metric):
    """Fit, onset and delay of one run."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "steps": datasets.Value("int64"),
                    "train": datasets.Value("float64"),
                    "held_out": datasets.Value("float64"),
                }
            ),
        )

    def compute(
        self,
        *,
        log_history: list[dict[str, Any]] | None = None,
        steps: Any = None,
        train: Any = None,
        held_out: Any = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Summarise one run."""  # evaluate adds the description of the inputs to it
        # A log is not a table with one row per evaluation, the only input that evaluate accepts.
        if log_history is not None:
            if not (steps is None and train is None and held_out is None):
                raise ValueError("give either log_history or steps, train and held_out, not both.")
            return grokking.summarise(log_history, **options)
        columns = {"steps": steps, "train": train, "held_out": held_out}
        missing = [name for name, column in columns.items() if column is None]
        if missing and (len(missing) < 3 or self.writer is None):  # with a writer, rows were added before
            raise ValueError(f"{', '.join(missing)} must be given too, or log_history instead of all three.")
        return super().compute(**columns, **options)

    def _compute(self, steps: list[int], train: list[float], held_out: list[float], **options: Any) -> dict[str, Any]:
        for name in ("train_metric", "held_out_metric"):
            if name in options:
                raise ValueError(f"{name} is for log_history; train and held_out have no names.")
        if any(later <= step for step, later in pairwise(steps)):
            raise ValueError("steps must be in ascending order, each once.")
        rows = zip(steps, train, held_out, strict=True)
        log_history = [{"step": step, "train": a, "held_out": b} for step, a, b in rows]
        return grokking.summarise(log_history, "train", "held_out", **options)
