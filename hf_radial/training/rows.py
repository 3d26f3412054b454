"""Rows of the training set as a batch, as the trainer gives them to its model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from transformers import Trainer

from hf_radial.internals.trainer_parts import collator_of, prepared
from hf_radial.sites.find import ForwardFailedError, Sites, find_sites
from hf_radial.sites.preserve import preserve_random_state

TRACED_ROWS = 2


def sites_of(trainer: Trainer) -> Sites:
    """The sites of a trainer's model, found in the same way as the penalty's.

    Raises:
        ValueError: no sites are found.
    """
    model = trainer.model
    if model is None:
        raise ValueError("the trainer has no model")
    try:
        inputs = first_rows(trainer, TRACED_ROWS)
    except Exception:  # training gives a better error for the data
        inputs = None
    try:
        return find_sites(model, inputs)
    except ForwardFailedError:
        if inputs is None:
            raise
        return find_sites(model)  # in some trainers the model is not called with the collated batch


def first_rows(trainer: Trainer, count: int) -> dict[str, Any] | None:
    """The first rows of the training set as a batch, the same on every rank; `None` if the rows have no index.

    Random states and the collator's state are preserved.
    """
    dataset: Any = trainer.train_dataset
    rows = range(min(count, len(dataset))) if hasattr(dataset, "__len__") else ()
    return batch_of_rows(trainer, dataset, rows)


def batch_of_rows(trainer: Trainer, dataset: Any, rows: Sequence[int], seed: int | None = None) -> dict[str, Any] | None:
    """These rows of `dataset` as the trainer gives them to its model. `None` if rows have no index or the batch is not a dict.

    Random states and the collator's state are preserved. The collator draws from `seed`, if it is given.
    """
    if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None
    with preserve_random_state(seed):
        collator = collator_of(trainer)
        # As in a DataLoader: `__getitems__` returns several rows at once.
        fetched = dataset.__getitems__(list(rows)) if hasattr(dataset, "__getitems__") else [dataset[i] for i in rows]
        # A copy of the collator, without a copy of the model that it may hold.
        model: Any = trainer.model
        batch = copy.deepcopy(collator, {id(module): module for module in model.modules()})(fetched)
        if not isinstance(batch, Mapping):
            return None
        return prepared(trainer, batch)


def makes_its_batches(trainer: Trainer) -> bool:
    """Whether the model may be called with other batches than the loader's, for example generated text.

    This is assumed if the trainer's class has its own `_prepare_inputs`, or its own `training_step` that names the batch among
    its arguments. (A `training_step(*args)` can only pass the batch on.)
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
    """Whether the model is called with collated rows of the training set. If it fails on them, it cannot be trained."""
    dataset, own = trainer.train_dataset, type(trainer).compute_loss is Trainer.compute_loss
    return own and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not makes_its_batches(trainer)
