"""Rows of the training set as the trainer would hand them to its model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from transformers import Trainer

from hf_radial.sites.find import ForwardFailedError, Sites, find_sites
from hf_radial.sites.preserve import preserve_random_state

TRACED_ROWS = 2


def sites_of(trainer: Trainer) -> Sites:
    """The sites of a trainer's model, found as the penalty's are.

    Raises:
        ValueError: no sites are found.
    """
    model = trainer.model
    if model is None:
        raise ValueError("the trainer has no model")
    try:
        inputs = first_rows(trainer, TRACED_ROWS)
    except Exception:  # training will say better what is wrong with the data
        inputs = None
    try:
        return find_sites(model, inputs)
    except ForwardFailedError:
        if inputs is None:
            raise
        return find_sites(model)  # some trainers make the model's arguments out of a batch that is none


def first_rows(trainer: Trainer, count: int) -> dict[str, Any] | None:
    """The first rows of the training set as a batch, the same on every rank; `None` where they cannot be had by index.

    Nothing is drawn: random states, and that of the collator, are left as they are.
    """
    dataset: Any = trainer.train_dataset
    rows = range(min(count, len(dataset))) if hasattr(dataset, "__len__") else ()
    return batch_of_rows(trainer, dataset, rows)


def batch_of_rows(trainer: Trainer, dataset: Any, rows: Sequence[int], seed: int | None = None) -> dict[str, Any] | None:
    """These rows of `dataset` as the trainer would give them to its model; `None` without an index, or if it is no dict.

    Random states and the collator's state do not change. The collator draws from `seed`, if it is given.
    """
    if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None
    with preserve_random_state(seed):
        collator = trainer._get_collator_with_removed_columns(trainer.data_collator, description="training")
        # As a DataLoader does: a data set may return several rows at once.
        fetched = dataset.__getitems__(list(rows)) if hasattr(dataset, "__getitems__") else [dataset[i] for i in rows]
        # A copy of the collator, without a copy of the model that it may hold.
        model: Any = trainer.model
        batch = copy.deepcopy(collator, {id(module): module for module in model.modules()})(fetched)
        if not isinstance(batch, Mapping):
            return None
        if hasattr(trainer, "_buffered_inputs"):  # trl's: it would generate here, and train on that later
            return dict(Trainer._prepare_inputs(trainer, dict(batch)))
        return dict(trainer._prepare_inputs(dict(batch)))


def makes_its_batches(trainer: Trainer) -> bool:
    """Whether the model may be called with something else than the loader's batches: generated text, say.

    So it is if the trainer's class has a `_prepare_inputs` of its own, or a `training_step` that names the batch among its
    arguments (one that takes `*args` can only pass it on).
    """
    named = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    for cls in type(trainer).__mro__:
        if cls is Trainer:
            return False
        if cls.__module__.startswith("hf_radial."):
            continue
        step = vars(cls).get("training_step")
        if "_prepare_inputs" in vars(cls):
            return True
        if step is not None and sum(p.kind in named for p in signature(step).parameters.values()) > 1:
            return True
    return False


def calls_model_with_rows(trainer: Trainer) -> bool:
    """Whether the model is called with the collated rows of the training set: if it fails on them, it cannot be trained."""
    dataset, own = trainer.train_dataset, type(trainer).compute_loss is Trainer.compute_loss
    return own and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not makes_its_batches(trainer)
