"""Accuracy of each digit of a number, as an `evaluate` module. Load it with `hf_radial.metrics.load_per_digit_accuracy()`.

In here: the score, and the description that `evaluate` asks for. `evaluate` copies only this file into its own folder and
imports it from there. Therefore it imports nothing from this package.
"""

from collections.abc import Sequence
from typing import Any

# One import per line: the import parser of `evaluate` does not understand `import datasets, evaluate`.
import datasets
import evaluate
import numpy as np

_IGNORED = -100
_MISSING = -1  # fills a written number that is shorter than the reference; equals no character

_DESCRIPTION = """
Share of rows in which a digit of the answer is correct, for each place value: units, tens, hundreds, ... A model may learn some
digits earlier than others, and exact match only shows when it has learned the last. Each digit is compared at its own place;
the other digits of its row do not matter. A reference without a digit at a place (a shorter number, without leading zeros) does
not count there.
"""

_INPUTS = """
Args:
    predictions: rows of token ids, of any lengths; or strings.
    references: the same number of rows, each as long as its prediction, in which -100 marks positions outside the answer; or
        strings of digits. A predicted string may have any length. It is compared from the units on: missing digits are wrong,
        and digits beyond the reference are ignored. Cut end signs off.
    reverse: how the answer is written, as in `hf_radial.tasks.digits`: True for units first, False for units last. It is
        required, because the wrong value gives a plausible mirror image.
    ignore_ids: ids that are not digits (end sign, padding). They do not count where the reference has one. Without it, an end
        sign in the labels would count as a digit.

Returns:
    digit_accuracy: list of floats; `digit_accuracy[k]` is the accuracy of the digit for 10**k.
    digit_count: list of ints, the number of rows that have this digit.
    mean_digit_accuracy: float, the mean of `digit_accuracy`. Each place has the same weight, whatever its number of rows.

Raises:
    ValueError: the shapes differ, nothing counts, `reverse` is missing, or a reference string has other characters than digits.

Example, with names that `Trainer` can log:
    >>> result = metric.compute(predictions=["7530", "10"], references=["7531", "11"], reverse=True)
    >>> {f"digit_{k}": accuracy for k, accuracy in enumerate(result["digit_accuracy"])}
    {'digit_0': 1.0, 'digit_1': 0.5, 'digit_2': 1.0, 'digit_3': 0.0}
"""


class PerDigitAccuracy(evaluate.Metric):
    """`digit_accuracy` by place value, over rows of token ids or over strings."""

    def _info(self) -> evaluate.MetricInfo:
        ids, text = datasets.Sequence(datasets.Value("int64")), datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": ids, "references": ids}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add rows to what is scored."""  # evaluate adds the description of the inputs to it
        # evaluate looks at the first row to choose between ids and text, and keeps its choice even if adding fails.
        if predictions is not None and references is not None:
            counts = len(predictions), len(references)
            if counts[0] != counts[1] or not counts[0]:
                raise ValueError(
                    f"predictions ({counts[0]}) and references ({counts[1]}) must have equally many rows, and at least one."
                )
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(
        self, predictions: list[Any], references: list[Any], reverse: bool | None = None, ignore_ids: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Score `n` rows; both arguments hold one list of ids, or one string, a row."""
        if not isinstance(reverse, bool):
            raise ValueError(
                f"reverse={reverse!r} must be True if answers are written units first, or False if they are written units last."
            )
        if isinstance(references[0], str):
            if len(ignore_ids):
                raise ValueError("ignore_ids are for rows of token ids; remove all but digits from the strings instead.")
            predictions, references = _codes(predictions, references, reverse)
        lengths = np.array([len(row) for row in references], dtype=np.int64)
        for index, (row, length) in enumerate(zip(predictions, lengths, strict=True)):
            if len(row) != length:
                raise ValueError(
                    f"predictions and references must have equal shapes, but row {index} of predictions has {len(row)} "
                    f"ids and row {index} of references has {length}; cut both to the same positions."
                )
        predicted = np.array([token for row in predictions for token in row], dtype=np.int64)
        expected = np.array([token for row in references for token in row], dtype=np.int64)
        counted = ~np.isin(expected, [_IGNORED, *ignore_ids])
        if not counted.any():
            raise ValueError(f"references have no digit that counts: every id is {_IGNORED} or one of ignore_ids={ignore_ids}.")
        row_of = np.repeat(np.arange(len(lengths)), lengths)[counted]
        digits = np.bincount(row_of, minlength=len(lengths))
        # For each counted digit: the number of counted digits before it in its row.
        before = np.arange(len(row_of)) - (np.cumsum(digits) - digits)[row_of]
        place = before if reverse else digits[row_of] - 1 - before
        counts = np.bincount(place)
        accuracy = np.bincount(place, weights=(predicted == expected)[counted]) / counts
        return {
            "digit_accuracy": accuracy.tolist(),
            "digit_count": counts.tolist(),
            "mean_digit_accuracy": float(accuracy.mean()),
        }


def _codes(predictions: list[str], references: list[str], reverse: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Strings as rows of character codes. Each prediction is cut or filled to its reference's length, at the far end."""
    for index, row in enumerate(references):
        if not (row.isascii() and row.isdigit()) and row:
            raise ValueError(f"references must be digits 0 to 9 and nothing else, but row {index} is {row!r}.")
    aligned = []
    for written, right in zip(predictions, references, strict=True):
        missing = [_MISSING] * (len(right) - len(written))
        codes = [ord(character) for character in written]
        cut = max(0, len(written) - len(right))
        aligned.append(codes[: len(right)] + missing if reverse else missing + codes[cut:])
    return aligned, [[ord(character) for character in row] for row in references]
