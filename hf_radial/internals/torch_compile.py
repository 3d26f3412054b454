"""Settings of `torch.compile` without a public name, and whether a functorch transform is running.

Checked with torch 2.11 to 2.13.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def functorch_is_active() -> bool:
    """Whether `vmap`, `grad` or another transform of torch.func is running. An autograd function needs other code there."""
    return torch._C._are_functorch_transforms_active()


def compiled_checkpoints_may_collect() -> AbstractContextManager[Any]:
    """Let `torch.compile` compile a checkpointed block that has a site as one graph.

    torch asks whether the replay of a block may leave out its side effects. Ours must be left out: a replay is not counted.
    Without this setting, or in a torch that does not have it, the block is not compiled.
    """
    import torch._dynamo.config as settings

    name = "skip_fwd_side_effects_in_bwd_under_checkpoint"
    return settings.patch({name: True}) if hasattr(settings, name) else nullcontext()


def graphs_are_kept() -> AbstractContextManager[Any]:
    """Let compiled graphs run backward twice, by keeping their buffers after the first pass."""
    import torch._functorch.config as settings

    return settings.patch({"donated_buffer": False}) if hasattr(settings, "donated_buffer") else nullcontext()
