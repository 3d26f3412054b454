"""Many members through their sequences of tasks: data, order, and what is measured after each task.

In here: `train_sequence`. Not in here: the members' parameters and methods (`stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_radial.continual.stack import Options, Stack
from hf_radial.geometry.spectrum import effective_rank, singular_values
from hf_radial.geometry.units import dead_share
from hf_radial.models.vector_mlp import VectorMLPConfig
from hf_radial.penalty.functional import radius
from hf_radial.runs.retention import steps_to
from hf_radial.tasks.image_sequence import CLASSES, PIXELS, ImageSequenceConfig, task_images
from hf_radial.tasks.turns import batches_in_turn
from hf_radial.training.calibration import CALIBRATION_ROWS

FISHER_ROWS = 256
LEVEL = 0.9  # of the accuracy that counts as learned
EVERY = 10  # steps between two looks at the accuracy on the task that is trained on


@dataclass
class Found:
    """What one member's sequence left.

    Attributes:
        accuracy: `(T, T)` on held-out rows, NaN where it was not measured.
        online: for each task, the share of training rows that were right in the step before they were trained on.
        steps_to_level: for each task, the steps to 90 % on held-out rows; `None` if it was not reached, empty if not measured.
        dead, effective_rank, radius: site -> one number a task, on the task's held-out rows right after it.
        weight_norm: matrix -> one number a task.
        failed: whether a weight is no number at the end.
        predictions: `(T, T, rows)` classes, if they were asked for.
    """

    accuracy: np.ndarray[Any, Any]
    online: list[float] = field(default_factory=list)
    steps_to_level: list[int | None] = field(default_factory=list)
    dead: dict[str, list[float]] = field(default_factory=dict)
    effective_rank: dict[str, list[float]] = field(default_factory=dict)
    radius: dict[str, list[float]] = field(default_factory=dict)
    weight_norm: dict[str, list[float]] = field(default_factory=dict)
    failed: bool = False
    predictions: np.ndarray[Any, Any] | None = None


def train_sequence(
    config: ImageSequenceConfig,
    members: Sequence[tuple[int, Options]],
    *,
    epochs: int,
    batch_size: int,
    hidden_size: int,
    split: str,
    full: bool,
    matrix_every: int = 1,
    predictions: bool = False,
) -> list[Found]:
    """Train every member on its own sequence, whose draws, splits and initial weights its seed decides.

    Args:
        config: of the sequence; each member has it with its own seed.
        members: seed and options of each.
        epochs, batch_size: of each task.
        hidden_size: of the two hidden layers.
        split: the held-out rows: "validation" or "test".
        full: measure all earlier tasks after each task, and the geometry. Otherwise all tasks are measured at the end, and each
            task right after it.
        matrix_every: with `full`, tasks between two measurements of all earlier tasks.
        predictions: keep the predicted classes too.
    """
    seeds = [seed for seed, _ in members]
    own = [replace(config, name="default", seed=seed) for seed in seeds]
    stack = Stack(VectorMLPConfig(input_size=PIXELS, hidden_size=hidden_size, num_classes=CLASSES), members)
    tasks, each = config.tasks, torch.arange(len(seeds)).unsqueeze(1)
    shared = stack.shared
    found = [Found(np.full((tasks, tasks), np.nan)) for _ in seeds]
    if predictions:
        for one in found:
            one.predictions = np.full((tasks, tasks, config.sizes[split]), 255, dtype=np.uint8)
    kept: list[tuple[Tensor, Tensor]] = []  # rows of earlier tasks that can be replayed

    def rows(which: str, task: int) -> tuple[Tensor, Tensor]:
        drawn = [task_images(one, which, task) for one in own]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in drawn]))
        return pixels.float() * stack.config.input_scale, torch.from_numpy(np.stack([labels for _, labels in drawn]))

    def measure(after: int, task: int) -> list[Tensor]:
        x, labels = rows(split, task)
        with torch.no_grad():
            logits, sites = stack.forward(x)
        chosen = logits.argmax(-1)
        for one, right, classes in zip(found, (chosen == labels).double().mean(1).tolist(), chosen, strict=True):
            one.accuracy[after, task] = right
            if one.predictions is not None:
                one.predictions[after, task] = classes.numpy()
        return sites

    for task in range(tasks):
        x, labels = rows("train", task)
        turns = [
            batches_in_turn(
                x.shape[1], task, epochs=epochs, batch_size=batch_size, seed=seed, replay=shared.replay, kept=shared.kept
            )
            for seed in seeds
        ]
        order = torch.from_numpy(np.stack([row for row, _ in turns], axis=1))  # (steps, members, batch)
        of = np.stack([of for _, of in turns], axis=1)
        if task == 0:
            stack.calibrate(x[each, order.movedim(1, 0).flatten(1)[:, :CALIBRATION_ROWS]])
        held_out = rows(split, task) if full else None
        looks: list[tuple[int, list[float]]] = []
        hits = torch.zeros(len(seeds))
        for i, index in enumerate(order):
            pixels, wanted = x[each, index], labels[each, index]
            if shared.replay and task:
                _replay(pixels, wanted, kept, index, torch.from_numpy(of[i]), task)
            right = stack.step(pixels, wanted)
            hits += right[:, : batch_size - shared.replay if task else batch_size].float().mean(1)
            if held_out is not None and (i + 1) % EVERY == 0:
                with torch.no_grad():
                    logits, _ = stack.forward(held_out[0])
                looks.append((i + 1, (logits.argmax(-1) == held_out[1]).double().mean(1).tolist()))
        for m, one in enumerate(found):
            one.online.append(float(hits[m]) / len(order))
            if full:
                one.steps_to_level.append(steps_to([step for step, _ in looks], [values[m] for _, values in looks], LEVEL))
        if shared.replay:
            kept.append((x[:, : shared.kept].clone(), labels[:, : shared.kept].clone()))
        sites = measure(task, task)
        if (full and (task + 1) % matrix_every == 0) or task == tasks - 1:
            for earlier in range(task):
                measure(task, earlier)
        if full:
            _geometry(stack, sites, found)
        stack.end_task(x[:, :FISHER_ROWS], labels[:, :FISHER_ROWS])
    for m, one in enumerate(found):
        one.failed = not all(bool(p[m].isfinite().all()) for p in stack.parameters)
    return found


def _replay(pixels: Tensor, labels: Tensor, kept: list[tuple[Tensor, Tensor]], index: Tensor, of: Tensor, task: int) -> None:
    """Put rows of earlier tasks in their places in the batches."""
    for member, place in (of != task).nonzero().tolist():
        old_pixels, old_labels = kept[int(of[member, place])]
        pixels[member, place] = old_pixels[member, index[member, place]]
        labels[member, place] = old_labels[member, index[member, place]]


def _geometry(stack: Stack, sites: list[Tensor], found: list[Found]) -> None:
    for i, h in enumerate(sites):
        site = f"norms.{i}" if stack.shared.normalization == "layer_norm" else f"hidden.{i}"
        for member, one in enumerate(found):
            one.dead.setdefault(site, []).append(float(dead_share(h[member].relu())))
            one.effective_rank.setdefault(site, []).append(float(effective_rank(singular_values(h[member]))))
            one.radius.setdefault(site, []).append(float(radius(h[member]).mean()))
    for name, p in zip(stack.names, stack.parameters, strict=True):
        if p.ndim == 3:
            for member, one in enumerate(found):
                one.weight_norm.setdefault(name, []).append(float(p[member].detach().norm()))
