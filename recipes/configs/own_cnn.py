"""A model and data of one's own for a grid: a small convolutional network on the digit images of scikit-learn.

`compare_own_cnn.yaml`, beside this file, names the two functions. It needs `pip install scikit-learn`, which holds the images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def make_rows(train_fraction: float, validation_fraction: float, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The 1,797 images of 8 x 8 pixels, as `pixels` `(rows, 1, 8, 8)` from 0 to 1, and the digits as `labels`."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    ends = np.cumsum([round(share * len(order)) for share in (train_fraction, validation_fraction)])
    return {
        name: {"pixels": torch.tensor(digits.images[rows, None] / 16, dtype=torch.float32), "labels": digits.target[rows]}
        for name, rows in zip(("train", "validation", "test"), np.split(order, ends), strict=True)
    }


class ConvNet(nn.Module):
    """Two convolutions, a hidden layer, and logits. The penalty acts on the outputs of all three."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, stride=2)
        self.hidden = nn.Linear(channels * 4 * 4, width)
        self.head = nn.Linear(width, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(pixels))))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def make_model(rows: Any, channels: int = 8, width: int = 64) -> nn.Module:
    """A network for as many classes as the training rows have."""
    return ConvNet(channels, width, classes=int(rows.columns["labels"].max()) + 1)
