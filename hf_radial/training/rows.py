"""Rows of the training set as the trainer would hand them to its model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Trainer

from hf_radial.sites.find import Sites, find_sites
from hf_radial.sites.preserve import undisturbed_random_state


def sites_of(trainer: Trainer) -> Sites:
    """The sites of a trainer's model, found as the penalty's are.

    Raises:
        ValueError: it has none that are known.
    """
    model = trainer.model
    if model is None:
        raise ValueError("the trainer has no model")
    try:
        inputs = batch_of_rows(trainer, trainer.train_dataset, range(2))
    except Exception:  # training will say better what is wrong with the data
        inputs = None
    return find_sites(model, inputs)


def batch_of_rows(trainer: Trainer, dataset: Any, rows: Sequence[int], seed: int | None = None) -> dict[str, Any] | None:
    """These rows of `dataset` as the trainer would give them to its model; `None` if they are not had by index, or no dict.

    Random states, and that of the collator, are left as they are; whatever the collator draws, it draws from `seed`.
    """
    if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None
    with undisturbed_random_state(seed):
        collator = trainer._get_collator_with_removed_columns(trainer.data_collator, description="training")
        # As a DataLoader fetches them: a data set may hand out several rows at once.
        fetched = dataset.__getitems__(list(rows)) if hasattr(dataset, "__getitems__") else [dataset[i] for i in rows]
        # A copy of the collator, but not of the model that it may hold.
        model: Any = trainer.model
        batch = copy.deepcopy(collator, {id(module): module for module in model.modules()})(fetched)
        return dict(trainer._prepare_inputs(dict(batch))) if isinstance(batch, Mapping) else None
