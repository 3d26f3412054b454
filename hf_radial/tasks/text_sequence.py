"""A sequence of texts whose language changes: the same synthetic plays, spelled with permuted letters in each task.

In task t, each of the 26 letters stands for another one, drawn at random; capitals follow. Spaces, digits, signs and line ends
stay. So grammar and statistics of the words are those of task 0, the plays as they are, and a character-level model must learn
the spelling of every word anew.

The text is cut into train, validation and test as in `text.py`, once for the whole sequence. So no row of a held-out split is
trained on in any task, in any spelling. Rows come task by task, and the column `task` tells their task.

In here: the configuration and the builder.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import NUMBER, TaskBuilder, TaskConfig
from hf_radial.tasks.checks import whole_number
from hf_radial.tasks.plays import ALPHABET
from hf_radial.tasks.splits import random_generator, random_order
from hf_radial.tasks.text import Text, TextConfig, text_of

MOST_TASKS = 10_000
LETTERS = 1  # a stream of random numbers of one seed


@dataclass
class TextSequenceConfig(TaskConfig):
    """One sequence of texts.

    Args:
        tasks: how many tasks, from 1.
        characters: length of the text of one task, from 10,000 to 100 million.
        train_fraction: share of the characters to train on, from the start of the text.
        validation_fraction: share of the characters after that; the rest is "test".

    Raises:
        ValueError: a field is out of its range, or a split would be shorter than the longest row.

    Example:
        >>> TextSequenceConfig(tasks=5).name
        'letters_t5_c50000_f0.8_v0.1_s0'
    """

    tasks: int = 10
    characters: int = 50_000
    train_fraction: float = 0.8
    validation_fraction: float = 0.1

    PATTERN: ClassVar[str] = (
        rf"letters_t(?P<tasks>\d+)_c(?P<characters>\d+)_f(?P<train_fraction>{NUMBER})_v(?P<validation_fraction>{NUMBER})"
        r"_s(?P<seed>\d+)"
    )
    EXAMPLE: ClassVar[str] = "letters_t10_c50000_f0.8_v0.1_s0"

    def check(self) -> None:
        self.tasks = whole_number("tasks", self.tasks, 1, MOST_TASKS)
        self.characters = whole_number("characters", self.characters, 10_000, 100_000_000)
        text = self.text
        self.train_fraction, self.validation_fraction = text.train_fraction, text.validation_fraction

    @property
    def text(self) -> TextConfig:
        """The text of task 0. ValueError as for `TextConfig`."""
        return TextConfig(
            characters=self.characters,
            train_fraction=self.train_fraction,
            validation_fraction=self.validation_fraction,
            seed=self.seed,
        )

    def spell_name(self) -> str:
        shares = f"f{self.train_fraction!r}_v{self.validation_fraction!r}"
        return f"letters_t{self.tasks}_c{self.characters}_{shares}_s{self.seed}"


class TextSequence(TaskBuilder):
    """Builder of `TextSequenceConfig`: `text` and `task`, one shard a task (more for long texts)."""

    BUILDER_CONFIG_CLASS = TextSequenceConfig
    SUMMARY = "A sequence of texts whose language changes: synthetic plays, spelled with permuted letters in each task."
    SOURCE = "this project's own, from its generated plays"
    SHELF = ("letters_t10_c50000_f0.8_v0.1_s0",)

    def features(self) -> datasets.Features:
        return datasets.Features({"text": datasets.Value("string"), "task": datasets.Value("int64")})

    def shards(self) -> dict[str, list[Any]]:
        parts = Text.cut(self.config.text, text_of(self.config.text))
        return {
            split: [(piece, task) for task in range(self.config.tasks) for piece in pieces] for split, pieces in parts.items()
        }

    def table(self, shard: tuple[pa.Array, int]) -> pa.Table:
        rows, task = shard
        spelling = spelling_of(self.config.seed, task)
        text = pa.array([row.translate(spelling) for row in rows.to_pylist()], pa.string())
        return pa.table({"text": text, "task": pa.array(np.full(len(rows), task))})

    @staticmethod
    def vocabulary(config: TextSequenceConfig) -> str:
        return "".join(sorted({*ALPHABET, *ascii_lowercase, *ascii_lowercase.upper()}))


def spelling_of(seed: int, task: int) -> dict[int, int]:
    """What `str.translate` takes: each letter's letter in a task.

    >>> "Abba".translate(spelling_of(0, 0)), len(spelling_of(0, 1))
    ('Abba', 52)
    """
    letters = ascii_lowercase
    order = range(26) if task == 0 else random_order(random_generator([seed, LETTERS, task]), 26)
    new = "".join(letters[int(i)] for i in order)
    return str.maketrans(letters + letters.upper(), new + new.upper())
