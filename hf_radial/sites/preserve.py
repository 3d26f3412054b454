"""Run a model or a collator beside training, without any effect on training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def preserve_random_state(seed: int | None = None) -> Iterator[None]:
    """Restore Python's, NumPy's and torch's random states afterwards. Inside they start from `seed`, if it is given."""
    states = random.getstate(), np.random.get_state()
    # Only accelerators in use: reading the state of another one would initialise it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                # Not torch.manual_seed: it also seeds accelerators whose state is not saved here.
                torch.default_generator.manual_seed(seed)
                if devices:
                    torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and restore each module's mode afterwards.

    `nn.TransformerEncoder` computes as in training: its fast path packs padded batches into nested tensors.
    """
    training = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    for module, _ in training:
        # On a CPU these pack their weights when they are first evaluated, and compute wrong gradients from then on.
        if type(module).__module__.startswith("bitsandbytes."):
            module.training = True
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, was in training:
            module.training = was
