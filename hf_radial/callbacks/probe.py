"""The probe: the fixed rows on which a `Trainer`'s model is measured. They are drawn without moving any random state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor
from transformers import Trainer

from hf_radial.safe_files import replacing
from hf_radial.training.rows import batch_of_rows

PROBE_FILE = "_geometry_probe.safetensors"  # its rows are training data: files that begin with `_` are not pushed to a Hub
MOST_POSITIONS = 4096  # in a drawn probe; a row of a long sequence has many
NUMBERS_OF_A_POSITION = 2048  # of images and sounds

Batch = dict[str, Any]


@dataclass
class Probe:
    """The batches that are measured.

    Attributes:
        rows: of the training set, `{name: tensor}`, as the model takes them.
        held_out: of an evaluation set, if there is one.
    """

    rows: Batch
    held_out: Batch | None

    def save(self, file: Path, drawn_with: str) -> None:
        """Write both batches; `drawn_with` is the seed, in words."""
        tensors = {**_tensors(self.rows, "train."), **_tensors(self.held_out or {}, "held_out.")}
        with replacing(file) as new:
            save_file(tensors, new, {"seed": drawn_with})

    def fingerprint(self) -> str:
        """A hash of the training rows. Vectors of other rows cannot be compared with theirs."""
        return sha256(save(_tensors(self.rows))).hexdigest()


def make_probe(
    trainer: Trainer, given: Mapping[str, Any] | None, held_out: Mapping[str, Any] | str | None, rows: int, seed: int
) -> Probe:
    """The probe of a trainer; for the arguments see `GeometryCallback`.

    Raises:
        ValueError: no rows can be drawn, or `held_out` names no data set of `eval_dataset`.
    """
    return Probe(_training_batch(trainer, given, rows, seed), _held_out_batch(trainer, held_out, rows, seed))


def _training_batch(trainer: Trainer, given: Mapping[str, Any] | None, rows: int, seed: int) -> Batch:
    if given is not None:
        return dict(trainer._prepare_inputs(dict(given)))
    drawn = draw_rows(trainer, trainer.train_dataset, rows, seed)
    if drawn is None:
        raise ValueError(
            "GeometryCallback: no probe can be drawn from train_dataset, since it has no rows to index (an iterable one) or "
            "its batches are no dicts; give probe=..., a batch with labels"
        )
    return drawn


def _held_out_batch(trainer: Trainer, held_out: Mapping[str, Any] | str | None, rows: int, seed: int) -> Batch | None:
    there = trainer.eval_dataset
    if isinstance(held_out, Mapping):
        return dict(trainer._prepare_inputs(dict(held_out)))
    if held_out is not None:
        if not isinstance(there, Mapping) or held_out not in there:
            names = ", ".join(there) if isinstance(there, Mapping) else "no names"
            raise ValueError(f"held_out={held_out!r} is not in eval_dataset, which has {names}")
        return draw_rows(trainer, there[held_out], rows, seed)
    if isinstance(there, Mapping):
        there = next((there[name] for name in there if name != "train"), None)
    drawn = draw_rows(trainer, there, rows, seed)
    return drawn if drawn is not None and isinstance(drawn.get("labels"), Tensor) else None  # nobody asked for a held-out probe


def draw_rows(trainer: Trainer, dataset: Any, rows: int, seed: int) -> Batch | None:
    """At most `rows` rows of a data set as a batch, fewer if they are long; `None` if the data set cannot be indexed."""
    if dataset is None or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or not len(dataset):
        return None
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    main = getattr(trainer.model, "main_input_name", "input_ids")

    def positions(count: int) -> tuple[int, Batch | None]:
        batch = batch_of_rows(trainer, dataset, order[:count], seed)
        tokens = None if batch is None else batch.get(main)
        if not isinstance(tokens, Tensor) or not len(tokens):
            return 1, batch
        numbers = tokens.numel() // len(tokens)
        # An image or a sound is not tokens, so the number of its vectors is not known yet.
        return max(1, numbers // NUMBERS_OF_A_POSITION if tokens.is_floating_point() else numbers), batch

    length, batch = positions(min(8, len(order)))
    if batch is None:
        return None
    return positions(min(rows, max(8, MOST_POSITIONS // length), len(order)))[1]


def _tensors(batch: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a batch, each in memory of its own (labels may be the inputs themselves), on the CPU."""
    values = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    return {f"{prefix}{name}": value.detach().cpu().contiguous().clone() for name, value in values.items()}


def check_batch(name: str, batch: Any) -> None:
    """Raises unless a probe that the user gives is a batch of tensors with rows, or `None`."""
    advice = "give a batch as the model takes it, such as next(iter(trainer.get_eval_dataloader())), with labels"
    if batch is None:
        return
    if not isinstance(batch, Mapping):
        raise TypeError(f"{name}={type(batch).__name__} must be a mapping from argument names to tensors; {advice}")
    if not any(isinstance(value, Tensor) and value.ndim and len(value) for value in batch.values()):
        has = f"has no tensor with rows, only {', '.join(map(repr, batch))}" if batch else "is empty"
        raise ValueError(f"{name} {has}; {advice}, or leave {name} out to draw rows")
