r"""Sequences of modular tasks: the operation, or the modulus, changes from task to task.

- ``change="operation"``: task t is :math:`x_t a + y_t b + z_t \bmod p` with coefficients drawn at random, x and y not 0. Task 0
  is a + b. A network without a task's name cannot know two of them at once, since they answer the same question differently.
- ``change="modulus"``: task t is a + b mod m_t with m_t drawn at random from p/2 to p, and operands below m_t. In task 0,
  m = p. Tasks overlap: where a + b < m_t, they agree.

The pairs of train, validation and test are drawn once for the whole sequence. So no pair of a held-out split is trained on in
any task. Rows come task by task, and the column `task` tells their task. With a changing modulus, a task has the pairs of each
split that are below its modulus.

In here: the draws, the configuration and the builder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import NUMBER, TaskBuilder, TaskConfig, fixed_lists
from hf_radial.tasks.checks import fraction, one_of, whole_number
from hf_radial.tasks.splits import deal, random_generator

CHANGES = ("operation", "modulus")
MOST_TASKS = 100_000
LARGEST = 1000  # p**2 pairs are dealt in memory
COEFFICIENTS, MODULI = 1, 2  # streams of random numbers of one seed


@dataclass
class ModularSequenceConfig(TaskConfig):
    """One sequence of tasks.

    Args:
        change: what changes from task to task: "operation" or "modulus".
        p: the modulus, or the largest one; at least 5, up to 1,000.
        tasks: how many tasks, from 1.
        train_fraction: share of the pairs to train on.
        validation_fraction: share of the pairs for validation; 0 leaves the split out. The rest is "test".
        view: "classification" only.

    Raises:
        ValueError: a field is out of its range, or a split would be empty in one of the tasks.

    Example:
        >>> ModularSequenceConfig(change="modulus", p=31, tasks=10).name
        'modulus_p31_t10_f0.5_v0.1_s0'
    """

    change: str = "operation"
    p: int = 97
    tasks: int = 20
    train_fraction: float = 0.5
    validation_fraction: float = 0.1
    view: str = "classification"

    PATTERN: ClassVar[str] = (
        rf"(?P<change>{'|'.join(CHANGES)})_p(?P<p>\d+)_t(?P<tasks>\d+)_f(?P<train_fraction>{NUMBER})"
        rf"_v(?P<validation_fraction>{NUMBER})_s(?P<seed>\d+)"
    )
    EXAMPLE: ClassVar[str] = "operation_p97_t20_f0.5_v0.1_s0"

    def check(self) -> None:
        one_of("change", self.change, CHANGES)
        one_of("view", self.view, ("classification",))
        self.p = whole_number("p", self.p, 5, LARGEST)
        self.tasks = whole_number("tasks", self.tasks, 1, MOST_TASKS)
        self.train_fraction = fraction("train_fraction", self.train_fraction)
        self.validation_fraction = fraction("validation_fraction", self.validation_fraction, zero=True)
        for split, size in self.sizes.items():
            # A task has at least a quarter of the pairs. With so few pairs of a split, it might have none of them.
            if size < 8 and not (split == "validation" and self.validation_fraction == 0):
                raise ValueError(
                    f"train_fraction={self.train_fraction} and validation_fraction={self.validation_fraction} leave {size} of "
                    f"{self.p**2} pairs to the split {split!r}; leave it at least 8."
                )

    @property
    def sizes(self) -> dict[str, int]:
        """Pairs of each split over the whole table, rounded half up."""
        train, validation = (int(self.p**2 * share + 0.5) for share in (self.train_fraction, self.validation_fraction))
        return {"train": train, "validation": validation, "test": self.p**2 - train - validation}

    def spell_name(self) -> str:
        shares = f"f{self.train_fraction!r}_v{self.validation_fraction!r}"
        return f"{self.change}_p{self.p}_t{self.tasks}_{shares}_s{self.seed}"


class ModularSequence(TaskBuilder):
    """Builder of `ModularSequenceConfig`: `input_ids` the operands, `labels` the answer, and `task`; one shard a task."""

    BUILDER_CONFIG_CLASS = ModularSequenceConfig
    SUMMARY = (
        "A sequence of modular tasks: x a + y b + z mod p with new coefficients in each task, or a + b with a new modulus."
    )
    SOURCE = "this project's own, from the tables of Power et al. 2022, arXiv 2201.02177"
    SHELF = ("operation_p97_t20_f0.5_v0.1_s0", "modulus_p97_t20_f0.5_v0.1_s0")
    REORDERINGS = False

    def features(self) -> datasets.Features:
        number = datasets.Value("int64")
        return datasets.Features({"input_ids": datasets.List(number, length=2), "labels": number, "task": number})

    def shards(self) -> dict[str, list[Any]]:
        sizes = {split: size for split, size in self.config.sizes.items() if size}
        parts = deal(self.config.p**2, list(sizes.values()), self.config.seed)
        return {split: [(part, task) for task in range(self.config.tasks)] for split, part in zip(sizes, parts, strict=True)}

    def table(self, shard: tuple[np.ndarray, int]) -> pa.Table:
        pairs, task = shard
        operands, answers = modular_rows(self.config, pairs, task)
        return pa.table(
            {"input_ids": fixed_lists(operands), "labels": pa.array(answers), "task": pa.array(np.full(len(answers), task))}
        )

    @staticmethod
    def vocabulary(config: ModularSequenceConfig) -> list[str]:
        return [str(i) for i in range(config.p)]


def modular_rows(config: ModularSequenceConfig, pairs: np.ndarray, task: int) -> tuple[np.ndarray, np.ndarray]:
    """Operands `(n, 2)` int64 and answers `(n,)` of one task, for pairs `a p + b`; fewer of them for a smaller modulus."""
    a, b = np.divmod(pairs, config.p)
    x, y, z, modulus = 1, 1, 0, config.p
    if task and config.change == "operation":
        draw = random_generator([config.seed, COEFFICIENTS, task])
        x, y = (int(value) for value in draw.integers(1, config.p, size=2))
        z = int(draw.integers(0, config.p))
    if task and config.change == "modulus":
        modulus = int(random_generator([config.seed, MODULI, task]).integers((config.p + 1) // 2, config.p + 1))
        a, b = a[inside := (a < modulus) & (b < modulus)], b[inside]
    return np.stack([a, b], axis=1), (x * a + y * b + z) % modulus
