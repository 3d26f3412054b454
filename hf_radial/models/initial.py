"""First weights of a linear layer."""

from __future__ import annotations

import math

from torch import nn
from transformers import initialization as init


def init_linear(layer: nn.Linear) -> None:
    """As `nn.Linear.reset_parameters`, by transformers' functions: they skip what a checkpoint has already filled."""
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    bound = 1 / math.sqrt(layer.in_features)
    init.uniform_(layer.bias, -bound, bound)
