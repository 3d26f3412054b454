"""Units that are off: how much of a layer no longer answers to anything."""

from __future__ import annotations

from torch import Tensor


def dead_share(activations: Tensor) -> Tensor:
    """Share of the units that are 0 on every row (dormant at threshold 0 in Sokar et al. 2023, arXiv 2302.12902).

    Args:
        activations: after the ReLU, `(..., rows, units)`.

    >>> import torch
    >>> dead_share(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor(0.5000)
    """
    return (activations == 0).all(-2).float().mean(-1)
