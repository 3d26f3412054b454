r"""Numbers of a run through a sequence of tasks, from its accuracy matrix: retention, forgetting, transfer and plasticity.

:math:`a_{ij}` is the accuracy on task j's held-out rows right after training on task i, for tasks 0 to T - 1. The matrix is a
NumPy array `(T, T)`; entries that were not measured are NaN.

| name | definition | source |
|---|---|---|
| current | :math:`\frac1T \sum_j a_{jj}` | "learning accuracy" of Riemer et al. 2019, arXiv 1810.11910 |
| average accuracy | :math:`\frac1T \sum_j a_{T-1,j}` | ACC of Lopez-Paz & Ranzato 2017, arXiv 1706.08840 |
| retention | :math:`\frac1{T-1} \sum_{j<T-1} a_{T-1,j}` | the same over earlier tasks only |
| backward transfer | :math:`\frac1{T-1} \sum_{j<T-1} (a_{T-1,j} - a_{jj})` | their BWT |
| forgetting | :math:`\frac1{T-1} \sum_{j<T-1} (\max_{j \le i<T-1} a_{ij} - a_{T-1,j})` | Chaudhry et al. 2018, 1801.10112 |

Plasticity is what becomes of :math:`a_{jj}`, and of the steps that task j takes to 90 %, as j grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Matrix = np.ndarray[Any, np.dtype[Any]]


def check_matrix(accuracy: Matrix) -> Matrix:
    """The matrix in float64. ValueError unless it is square with at least two tasks, or an accuracy is outside of 0 to 1."""
    a = np.asarray(accuracy, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) < 2:
        raise ValueError(f"accuracy has shape {a.shape}; it must be (T, T) with at least 2 tasks")
    if ((a < 0) | (a > 1)).any():
        raise ValueError("accuracy holds a number outside of 0 to 1")
    return a


def current(accuracy: Matrix) -> float:
    """Mean accuracy on each task right after it.

    >>> a = np.array([[0.8, 0.1], [0.5, 0.9]])
    >>> float(round(current(a), 3))
    0.85
    """
    return float(np.diag(check_matrix(accuracy)).mean())


def average_accuracy(accuracy: Matrix) -> float:
    """Mean accuracy on all tasks at the end.

    >>> average_accuracy(np.array([[0.8, 0.1], [0.5, 0.9]]))
    0.7
    """
    return float(check_matrix(accuracy)[-1].mean())


def retention(accuracy: Matrix) -> float:
    """Mean accuracy on all tasks but the last, at the end.

    >>> retention(np.array([[0.8, 0.1], [0.5, 0.9]]))
    0.5
    """
    return float(check_matrix(accuracy)[-1, :-1].mean())


def backward_transfer(accuracy: Matrix) -> float:
    """Mean change of the accuracy on a task since it was trained on; negative if tasks are forgotten.

    >>> round(backward_transfer(np.array([[0.8, 0.1], [0.5, 0.9]])), 3)
    -0.3
    """
    a = check_matrix(accuracy)
    return float((a[-1, :-1] - np.diag(a)[:-1]).mean())


def forgetting(accuracy: Matrix) -> float:
    """Mean loss of accuracy on a task since its best time, before the last task.

    >>> a = np.array([[0.8, 0.1, 0.1], [0.9, 0.9, 0.1], [0.5, 0.6, 0.9]])
    >>> round(forgetting(a), 3)
    0.35
    """
    a = check_matrix(accuracy)
    best = [a[j:-1, j].max() for j in range(len(a) - 1)]
    return float((np.array(best) - a[-1, :-1]).mean())


def retention_over_time(accuracy: Matrix) -> list[float]:
    """The retention after each task from the second on: `T - 1` numbers.

    >>> retention_over_time(np.array([[0.8, 0.1], [0.5, 0.9]]))
    [0.5]
    """
    a = check_matrix(accuracy)
    return [float(a[i, :i].mean()) for i in range(1, len(a))]


def steps_to(steps: Sequence[int], accuracies: Sequence[float], level: float = 0.9) -> int | None:
    """The first step at which the accuracy is at least `level`; `None` if it never is.

    >>> steps_to([10, 20, 30], [0.5, 0.92, 0.89]), steps_to([10], [0.5])
    (20, None)
    """
    return next((step for step, value in zip(steps, accuracies, strict=True) if value >= level), None)


def summary(accuracy: Matrix) -> dict[str, float]:
    """All of these numbers by name."""
    every = (current, average_accuracy, retention, backward_transfer, forgetting)
    return {measure.__name__: measure(accuracy) for measure in every}
