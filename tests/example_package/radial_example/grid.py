"""A model and data for a grid: `task: radial_example.grid:make_rows`, `model: radial_example.grid:make_model`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def make_rows(bits: int = 6, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """All texts of so many bits in random order, as -1 and 1, and whether most of them are 1."""
    numbers = torch.randperm(2**bits, generator=torch.Generator().manual_seed(seed))
    x = (numbers[:, None] // 2 ** torch.arange(bits)) % 2
    rows = {"x": 2.0 * x - 1, "labels": (2 * x.sum(1) > bits).long()}
    ends = {"train": slice(0, 2 ** (bits - 1)), "validation": slice(2 ** (bits - 1), None)}
    return {name: {column: values[part] for column, values in rows.items()} for name, part in ends.items()}


class Perceptron(nn.Module):
    """One hidden layer."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(inputs, width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(x)))


def make_model(rows: Any, width: int = 16) -> nn.Module:
    """A network for rows of this length."""
    return Perceptron(rows.columns["x"].shape[1], width)
