"""Running a model or a collator beside training, so that training is what it would be without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed_random_state(seed: int | None = None) -> Iterator[None]:
    """Python's, NumPy's and torch's random states are afterwards what they were; inside they start from `seed`, if given."""
    states = random.getstate(), np.random.get_state()
    # Not every accelerator there may be: a state of one that was never used would have to be made first.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                # Not torch.manual_seed: it seeds every accelerator, also those whose state is not kept here.
                torch.default_generator.manual_seed(seed)
                if devices:
                    torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, then each as it was before.

    `nn.TransformerEncoder` computes as in training: its fast path packs padded batches into nested tensors.
    """
    training = [module for module in model.modules() if module.training]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module in training:
            module.training = True
