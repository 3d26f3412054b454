"""Changing the vectors at a model's sites, for interventions that act on representations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from hf_radial.regularizer import Hook
from hf_radial.site import Site, site_vectors, with_vectors
from hf_radial.sites import Sites, find_sites
from hf_radial.undisturbed import batch_of_rows

Change = Callable[[Site, Tensor], Tensor]


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


def hook_sites(model: nn.Module, sites: Sites, change: Change) -> None:
    """Let `change(site, vectors)` replace the vectors at every site, in training and in evaluation."""
    modules = dict(model.named_modules())

    def call(site: Site, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> Any:
        h = site_vectors(site, args, kwargs, output)
        if h is None:
            return None
        changed = with_vectors(site, args, kwargs, output, change(site, h))
        if changed is None:
            raise TypeError(f"site {site.name!r} gives a {type(output).__name__}, in which nothing can be replaced")
        return changed

    for site in sites:
        module = modules[site.name]
        register = module.register_forward_pre_hook if site.at_input else module.register_forward_hook
        register(Hook(partial(call, site)), with_kwargs=True)
