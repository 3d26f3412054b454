"""Exact match of token ids, as an `evaluate` module. Load it with `hf_radial.metrics.load_exact_match()`.

In here: the score, and the description that `evaluate` asks for. `evaluate` copies only this file into its own folder and
imports it from there. Therefore it imports nothing from this package.
"""

# One import per line: the import parser of `evaluate` does not understand `import datasets, evaluate`.
import datasets
import evaluate
import numpy as np

_IGNORED = -100

_DESCRIPTION = """
Share of rows in which every counted token id equals the reference (`exact_match`), and share of counted token ids that equal it
(`token_accuracy`). Positions with -100 in the reference do not count. A row without a counted position is left out.
"""

_INPUTS = """
Args:
    predictions: rows of token ids, of any lengths.
    references: the same number of rows, each as long as its prediction; -100 marks positions that do not count.

Returns:
    exact_match: float, number of fully correct counted rows / number of counted rows.
    token_accuracy: float, number of correct counted positions / number of counted positions.

Raises:
    ValueError: the shapes differ, or no position counts.
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
        # The row of each position. Sums per row are then possible for rows of any lengths, empty ones included.
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        counted_in_row = np.bincount(row_of[counted], minlength=len(lengths))
        right_in_row = np.bincount(row_of[right], minlength=len(lengths))
        scored = counted_in_row > 0
        return {
            "exact_match": float((right_in_row == counted_in_row)[scored].mean()),
            "token_accuracy": float(right.sum() / counted.sum()),
        }
