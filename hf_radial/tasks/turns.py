"""Tasks that come one after the other: which rows are in which batch. For a `Trainer`, and for runs that are trained together.

In here: `batches_in_turn`, the order, and `TasksInTurn`, a dataset in that order. Not in here: any task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hf_radial.tasks.splits import random_generator, random_order

TURN, REPLAY = 3, 4  # streams of random numbers of one seed


def batches_in_turn(
    rows: int, task: int, *, epochs: int, batch_size: int, seed: int, replay: int = 0, kept: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Row and task of every place in the batches of one task.

    Each epoch takes the task's rows in a new random order, and leaves out the rows that do not fill a batch. With `replay`, the
    last places of each batch hold rows of earlier tasks: a random earlier task, and one of its first `kept` rows. The number
    of steps is that without replay.

    Args:
        rows: training rows of the task.
        task: its number, from 0.
        epochs: times that the task's rows are seen.
        batch_size: rows in a batch.
        seed: seeds the order.
        replay: rows of earlier tasks in each batch; none in task 0.
        kept: rows of each earlier task that can be replayed.

    Returns:
        Two arrays `(steps, batch_size)` int64: row within its task, and task.

    Raises:
        ValueError: a batch has more places than the task has rows, or `replay` leaves no new row.

    >>> row, of = batches_in_turn(4, 1, epochs=1, batch_size=2, seed=0, replay=1, kept=1)
    >>> of.tolist(), row[:, 1].tolist()
    ([[1, 0], [1, 0]], [0, 0])
    """
    if not 0 < batch_size <= rows:
        raise ValueError(f"batch_size={batch_size} must be from 1 to the number of rows of a task, {rows}")
    if not 0 <= replay < batch_size or (replay and not 0 < kept <= rows):
        raise ValueError(f"replay={replay} must be below batch_size={batch_size}, with kept={kept} from 1 to {rows}")
    steps = rows // batch_size
    orders = [random_order(random_generator([seed, TURN, task, epoch]), rows) for epoch in range(epochs)]
    row = np.concatenate([order[: steps * batch_size] for order in orders]).reshape(-1, batch_size)
    of = np.full_like(row, task)
    if replay and task:
        draw = random_generator([seed, REPLAY, task])
        of[:, -replay:] = draw.integers(0, task, size=(len(row), replay))
        row[:, -replay:] = draw.integers(0, kept, size=(len(row), replay))
    return row, of


class TasksInTurn(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The rows of several tasks in the order in which they are trained on, for a `Trainer` that does not shuffle.

        args = TrainingArguments(num_train_epochs=1, train_sampling_strategy="sequential", remove_unused_columns=False, ...)
        Trainer(args=args, train_dataset=TasksInTurn(rows, epochs=5, batch_size=60), data_collator=as_batch, ...)

    Args:
        columns: name to tensor `(rows, ...)` of all tasks, in the order of tasks. One is `task`: the task of each row, from 0.
        epochs, batch_size, seed, replay, kept: as for `batches_in_turn`.

    Attributes:
        steps: optimizer steps of each task, at one batch a step.

    Raises:
        ValueError: there is no column `task`, tasks are not numbered from 0 in order, or as `batches_in_turn`.
    """

    def __init__(
        self, columns: Mapping[str, Tensor], *, epochs: int, batch_size: int, seed: int = 0, replay: int = 0, kept: int = 0
    ) -> None:
        if "task" not in columns:
            raise ValueError(f"columns: there is no column 'task', but {', '.join(columns)}")
        task = columns["task"].numpy()
        counts = np.bincount(task)
        if (np.diff(task) < 0).any() or not counts.all():
            raise ValueError("columns: tasks must be numbered 0, 1, 2, ..., and their rows must come in this order")
        if replay and kept > counts.min():
            raise ValueError(f"kept={kept} must be at most the rows of the smallest task, {counts.min()}")
        self.columns = {name: column for name, column in columns.items() if name != "task"}
        self.counts: Sequence[int] = counts.tolist()
        starts = np.concatenate([[0], np.cumsum(counts)])
        order, self.steps = [], []
        for number, rows in enumerate(self.counts):
            row, of = batches_in_turn(rows, number, epochs=epochs, batch_size=batch_size, seed=seed, replay=replay, kept=kept)
            order.append((row + starts[of]).reshape(-1))
            self.steps.append(len(row))
        self.order = torch.from_numpy(np.concatenate(order))
        self.starts = starts.tolist()

    def __len__(self) -> int:
        """Places in all batches."""
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One place's row."""
        return {name: column[self.order[index]] for name, column in self.columns.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these places as one batch. A `DataLoader` calls this."""
        picked = self.order[torch.as_tensor(indices)]
        return {name: column[picked] for name, column in self.columns.items()}

    def rows_of(self, task: int) -> dict[str, Tensor]:
        """All training rows of one task."""
        own = slice(self.starts[task], self.starts[task + 1])
        return {name: column[own] for name, column in self.columns.items()}
