"""Sums are computed in float64, on the tensor's own device if it supports that."""

from __future__ import annotations

import torch
from torch import Tensor


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64; moved to the CPU if its device has no float64 (Apple's)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).to(torch.float64)
