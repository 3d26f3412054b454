r"""Sequences of tasks made from 1,797 real images: their pixels are permuted anew for each task, or their labels are.

The images are scikit-learn's digits: 8x8 pixels with values 0 to 16, ten classes, from the test part of the UCI ML
hand-written digits. The package ships them, so nothing is downloaded.

- ``change="pixels"``: task t shows the images with their pixels in the order :math:`\pi_t`, and the classes stay. A single
  network can know all tasks at once. What it forgets is therefore its own fault: the benchmark of retention
  (Goodfellow et al. 2013, arXiv 1312.6211; Kirkpatrick et al. 2017, arXiv 1612.00796).
- ``change="labels"``: the images stay, and class c is called :math:`\pi_t(c)`. A network without a task's name cannot know two
  tasks at once: a benchmark of plasticity only (Dohare et al. 2024, "Loss of plasticity in deep continual learning", and Kumar
  et al. 2023, arXiv 2308.11958, use such label changes).

Task 0 is the images as they are. The images of train, validation and test are drawn once for the whole sequence, so no image
of a held-out split is trained on in any task. Rows come task by task, and the column `task` tells their task.

In here: the draws, the configuration and the builder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import SizedConfig, TaskBuilder
from hf_radial.tasks.checks import one_of, whole_number
from hf_radial.tasks.splits import deal, random_generator, random_order

CHANGES = ("pixels", "labels")
IMAGES, PIXELS, CLASSES = 1797, 64, 10
MOST_TASKS = 100_000
PIXEL_ORDER, LABEL_ORDER = 1, 2  # streams of random numbers of one seed


@dataclass
class ImageSequenceConfig(SizedConfig):
    """One sequence of tasks.

    Args:
        change: what changes from task to task: "pixels" or "labels".
        tasks: how many tasks, from 1.
        train_size: images to train on, the same in every task.
        validation_size: images of the split "validation"; 0 leaves the split out.
        test_size: images to test on.
        view: "classification" only.

    Raises:
        ValueError: a field is out of its range, or there are more images than 1,797.

    Example:
        >>> ImageSequenceConfig(tasks=50).name
        'pixels_t50_n1200-297-300_s0'
        >>> ImageSequenceConfig(name="labels_t20_n1000-0-500_s3").change
        'labels'
    """

    train_size: int = 1200
    validation_size: int = 297
    test_size: int = 300
    change: str = "pixels"
    tasks: int = 50
    view: str = "classification"

    PATTERN: ClassVar[str] = rf"(?P<change>{'|'.join(CHANGES)})_t(?P<tasks>\d+){SizedConfig.SIZES}"
    EXAMPLE: ClassVar[str] = "pixels_t50_n1200-297-300_s0"

    def check(self) -> None:
        super().check()
        one_of("change", self.change, CHANGES)
        one_of("view", self.view, ("classification",))
        self.tasks = whole_number("tasks", self.tasks, 1, MOST_TASKS)
        self.check_enough(IMAGES, "lower one of them")

    def spell_name(self) -> str:
        return f"{self.change}_t{self.tasks}{self.sizes_in_name()}"


class ImageSequence(TaskBuilder):
    """Builder of `ImageSequenceConfig`: `pixels` (64 numbers from 0 to 16), `labels` and `task`, one shard a task."""

    BUILDER_CONFIG_CLASS = ImageSequenceConfig
    SUMMARY = "A sequence of tasks from 8x8 digits: the pixels, or the labels, are permuted anew in each task."
    SOURCE = "Goodfellow et al. 2013, arXiv 1312.6211; digits of scikit-learn, from Alpaydin & Kaynak 1998 (UCI)"
    LICENSE = "cc-by-4.0"
    SHELF = ("pixels_t50_n1200-297-300_s0", "labels_t50_n1200-297-300_s0")

    def features(self) -> datasets.Features:
        number = datasets.Value("int64")
        return datasets.Features(
            {"pixels": datasets.List(datasets.Value("uint8"), length=PIXELS), "labels": number, "task": number}
        )

    def shards(self) -> dict[str, list[Any]]:
        sizes = {split: size for split, size in self.config.sizes.items() if size}
        return {split: [(split, task) for task in range(self.config.tasks)] for split in sizes}

    def table(self, shard: tuple[str, int]) -> pa.Table:
        split, task = shard
        pixels, labels = task_images(self.config, split, task)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), PIXELS)
        return pa.table({"pixels": lists, "labels": pa.array(labels), "task": pa.array(np.full(len(labels), task))})

    @staticmethod
    def vocabulary(config: ImageSequenceConfig) -> list[str]:
        return [str(i) for i in range(CLASSES)]


@lru_cache(maxsize=1)
def images() -> tuple[np.ndarray, np.ndarray]:
    """All images `(1797, 64)` uint8 and their classes `(1797,)` int64.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the task 'image_sequence' needs scikit-learn: pip install 'hf_radial[sequences]'") from error
    found = load_digits()
    return found.data.astype(np.uint8), found.target.astype(np.int64)


@lru_cache(maxsize=64)
def split_images(seed: int, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Image numbers of train, validation and test, in random order."""
    rest = IMAGES - sum(sizes)
    return deal(IMAGES, [*sizes, *([rest] if rest else [])], seed)[: len(sizes)]


def task_images(config: ImageSequenceConfig, split: str, task: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(n, 64)` uint8 and labels `(n,)` int64 of one task's split; the same n images in each task, in one order."""
    sizes = {name: size for name, size in config.sizes.items() if size}
    pixels, labels = images()
    rows = dict(zip(sizes, split_images(config.seed, tuple(sizes.values())), strict=True))[split]
    pixels, labels = pixels[rows], labels[rows]
    if task == 0:
        return pixels, labels
    if config.change == "pixels":
        return pixels[:, random_order(random_generator([config.seed, PIXEL_ORDER, task]), PIXELS)], labels
    return pixels, random_order(random_generator([config.seed, LABEL_ORDER, task]), CLASSES)[labels]
