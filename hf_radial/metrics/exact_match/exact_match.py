"""Exact match of token ids, as an `evaluate` module. Load it with `hf_radial.metrics.load_exact_match()`.

In here: the score, and what `evaluate` wants to know about it. `evaluate` copies this file alone into its own folder
and imports it from there, so it imports nothing from this package.
"""

# One import a line, `import datasets, evaluate` not being understood by evaluate's reader of imports.
import datasets
import evaluate
import numpy as np

_IGNORED = -100

_DESCRIPTION = """
Share of rows whose every counted token id equals the reference (`exact_match`), and share of counted token ids that do
(`token_accuracy`). Positions with -100 in the reference do not count. A row without any counted position is left out.
"""

_INPUTS = """
Args:
    predictions: rows of token ids, of any lengths.
    references: as many rows, each as long as its prediction; -100 marks positions that do not count.

Returns:
    exact_match: float, counted rows that are right in full / counted rows.
    token_accuracy: float, counted positions that are right / counted positions.

Raises:
    ValueError: the shapes differ, or nothing counts.
"""


class ExactMatch(evaluate.Metric):
    """`exact_match` and `token_accuracy` over rows of token ids."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions: list[list[int]], references: list[list[int]]) -> dict[str, float]:
        """Score `n` rows; both arguments hold one list of ids a row."""
        lengths = np.array([len(row) for row in references], dtype=np.int64)
        for index, (row, length) in enumerate(zip(predictions, lengths, strict=True)):
            if len(row) != length:
                raise ValueError(
                    f"predictions and references must have equal shapes, but row {index} of predictions has {len(row)} "
                    f"ids and row {index} of references has {length}; cut both to the same positions."
                )
        predicted = np.array([token for row in predictions for token in row], dtype=np.int64)
        expected = np.array([token for row in references for token in row], dtype=np.int64)
        counted = expected != _IGNORED
        if not counted.any():
            raise ValueError(f"references have no position that counts: every id is {_IGNORED} or there is no row.")
        right = counted & (predicted == expected)
        # Row of each position: sums per row over rows of any lengths, empty ones included.
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        counted_in_row = np.bincount(row_of[counted], minlength=len(lengths))
        right_in_row = np.bincount(row_of[right], minlength=len(lengths))
        scored = counted_in_row > 0
        return {
            "exact_match": float((right_in_row == counted_in_row)[scored].mean()),
            "token_accuracy": float(right.sum() / counted.sum()),
        }
