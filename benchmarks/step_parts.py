"""Where a step of `RadialTrainer` goes at lambda 0, on the smallest model. Each arm does one thing more than the one before.

The case is that of `benchmarks/trainer_speed.py` with the largest share for the trainer: hidden layers of 128, batches of 256.

- *hand*: `benchmarks/by_hand.py`, which writes the forward pass out;
- *the model called*: the same loop, but it calls the model, which returns an output object, as every trainer must;
- *its loss noted*: it also checks that the loss is finite and adds it up, as a trainer's log needs it;
- *Trainer, fast epoch*: `Trainer` with this package's loop and data on the device, without the penalty and its lengths;
- *RadialTrainer*: the same, and the lengths at two sites are measured and added up in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from benchmarks import by_hand, trainer_speed
from benchmarks.by_hand import Steps
from benchmarks.pairs import interleave, ratios
from benchmarks.settings import Settings
from benchmarks.table import Row
from hf_radial import RadialTrainer
from hf_radial.internals.epoch import FastEpochMixin
from hf_radial.tasks.tensor_rows import TensorRows
from hf_radial.training.fast.resident import ResidentMixin

WIDTH, BATCH = 128, 256


class FastTrainer(FastEpochMixin, ResidentMixin, Trainer):
    """What `RadialTrainer` is without the penalty."""


def loss_of_call(noted: bool) -> by_hand.LossOf:
    """The loss of a batch from the model's output; `noted`: checked and added up."""
    total = torch.zeros(())

    def loss_of(model: Any, ids: Tensor, labels: Tensor, radial_lambda: float) -> Tensor:
        nonlocal total
        loss: Tensor = model(input_ids=ids, labels=labels).loss
        if noted and math.isfinite(loss.item()):
            total += loss.detach()
        return loss

    return loss_of


def rows(settings: Settings) -> Iterator[Row]:
    """How many times as long as by hand each arm takes."""
    data = trainer_speed.table()
    tensors = TensorRows.of(data)
    ids, labels = (tensors.columns[name] for name in ("input_ids", "labels"))
    steps = Steps(2, 4) if settings.quick else trainer_speed.CASES[WIDTH, BATCH]
    common: dict[str, Any] = {"width": WIDTH, "batch": BATCH, "steps": steps}

    def hand(loss_of: by_hand.LossOf | None = None) -> float:
        return by_hand.train(trainer_speed.build(WIDTH), ids, labels, BATCH, steps, 0.0, loss_of=loss_of)

    arms: dict[str, Callable[[], float]] = {
        "hand": hand,
        "hand, the model called": lambda: hand(loss_of_call(noted=False)),
        "hand, the model called, its loss noted": lambda: hand(loss_of_call(noted=True)),
        "Trainer, fast epoch": lambda: trainer_speed.trained(FastTrainer, data, **common),
        "RadialTrainer": lambda: trainer_speed.trained(RadialTrainer, data, **common, radial_lambda=0.0),
    }
    samples = interleave(arms, settings.pairs)
    what = trainer_speed.label(WIDTH, BATCH, 0.0, "cpu")
    configuration = trainer_speed.describe({**common, "device": "cpu", "drop_last": False}, 0.0)
    for name in list(arms)[1:]:
        values = ratios(samples[name], samples["hand"])
        yield Row(f"{name} / hand: {what}", values=values, samples=samples, configuration=configuration)
