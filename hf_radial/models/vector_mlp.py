"""An MLP on vectors of numbers, such as the pixels of a small image, as a `PreTrainedModel`.

Here: its configuration, the model, and their registration with the Auto classes, which importing this module does. The sites
of the penalty are the outputs of `hidden.0`, `hidden.1`, ..., or of their norms, as in `modular_mlp`.

Example:
    >>> import torch
    >>> from hf_radial.models.vector_mlp import VectorMLPConfig, VectorMLPForClassification
    >>> model = VectorMLPForClassification(VectorMLPConfig(input_size=64, hidden_size=8, num_classes=10))
    >>> model(pixels=torch.zeros(2, 64, dtype=torch.uint8)).logits.shape
    torch.Size([2, 10])
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_radial.models.initial import init_linear

__all__ = ["VectorMLPConfig", "VectorMLPForClassification"]

NORMALIZATIONS = ("none", "layer_norm")


class VectorMLPConfig(PreTrainedConfig):
    """Configuration of the MLP on vectors.

    Args:
        input_size: numbers in one example.
        input_scale: what the numbers are multiplied by; 1/16 for the digits of scikit-learn.
        hidden_size: width `d` of every hidden layer.
        num_hidden_layers: how many hidden layers there are.
        num_classes: size of the answer.
        normalization: of the pre-activations: "none", or "layer_norm" (without parameters).

    Raises:
        ValueError: a size is not an integer of at least 1, or `normalization` is unknown.
    """

    model_type = "vector_mlp"

    input_size: int = 64
    input_scale: float = 1 / 16
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_classes: int = 10
    normalization: str = "none"

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("input_size", "hidden_size", "num_hidden_layers", "num_classes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, but is {value!r}")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, but is {self.normalization!r}")
        if self.id2label is None:
            self.id2label = {i: str(i) for i in range(self.num_classes)}
            self.label2id = {str(i): i for i in range(self.num_classes)}
        super().__post_init__(**kwargs)


class VectorMLPForClassification(PreTrainedModel):
    """Classifies a vector with a ReLU MLP: `h_0 = W_0 (s x) + b_0`, `h_i = W_i relu(h_{i-1}) + b_i`, `logits = W relu(h) + b`.

    `s` is `input_scale`, and `h_i` is the output of module `hidden.i`, before its norm if there is one. A fresh model has
    torch's default linear layers.
    """

    config_class = VectorMLPConfig
    config: VectorMLPConfig
    main_input_name = "pixels"

    def __init__(self, config: VectorMLPConfig) -> None:
        super().__init__(config)
        widths = [config.input_size] + [config.hidden_size] * config.num_hidden_layers
        self.hidden = nn.ModuleList(nn.Linear(d_in, d_out) for d_in, d_out in pairwise(widths))
        self.classifier = nn.Linear(config.hidden_size, config.num_classes)
        if config.normalization == "layer_norm":
            self.norms = nn.ModuleList(
                nn.LayerNorm(config.hidden_size, elementwise_affine=False) for _ in range(config.num_hidden_layers)
            )
        self.post_init()

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Two vectors to run the model on."""
        numbers = torch.arange(2 * self.config.input_size) % 17
        return {"pixels": numbers.reshape(2, -1).float()}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init_linear(module)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        """Logits over the classes, and with `labels` the mean cross-entropy.

        Args:
            pixels: numbers of shape `(batch, input_size)`, of any type.
            labels: classes in `0..num_classes - 1`, integers of shape `(batch,)`.

        Raises:
            ValueError: `pixels` does not have shape `(batch, input_size)`.
        """
        if pixels.ndim != 2 or pixels.shape[1] != self.config.input_size:
            raise ValueError(
                f"pixels must have shape (batch, input_size) with input_size = {self.config.input_size}, "
                f"but has shape {tuple(pixels.shape)}"
            )
        x = pixels.to(self.dtype) * self.config.input_scale
        for i, layer in enumerate(self.hidden):
            h = layer(x)
            x = F.relu(h if self.config.normalization == "none" else self.norms[i](h))
        logits = self.classifier(x)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(VectorMLPConfig.model_type, VectorMLPConfig, exist_ok=True)
AutoModelForSequenceClassification.register(VectorMLPConfig, VectorMLPForClassification, exist_ok=True)
