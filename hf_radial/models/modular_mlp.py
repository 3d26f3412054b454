"""The MLP for modular arithmetic of arXiv 2606.32000 as a `PreTrainedModel`.

Here: its configuration, the model, and their registration with the Auto classes, which importing this module does.
Not here: the data (`hf_radial.tasks`) and the penalty; the sites of the penalty are the outputs of `hidden.0`,
`hidden.1`, ..., which are exactly the pre-activations that the paper penalises.

Example:
    >>> import torch
    >>> from transformers import AutoModelForSequenceClassification
    >>> from hf_radial.models.modular_mlp import ModularMLPConfig
    >>> config = ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8)
    >>> model = AutoModelForSequenceClassification.from_config(config)
    >>> model(input_ids=torch.tensor([[3, 5], [6, 6]])).logits.shape
    torch.Size([2, 7])
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_radial.models.initial import init_linear

__all__ = ["ModularMLPConfig", "ModularMLPForSequenceClassification"]


NORMALIZATIONS = ("none", "layer_norm", "layer_norm_affine", "layer_norm_last", "ngpt")


class ModularMLPConfig(PreTrainedConfig):
    """Configuration of the modular-arithmetic MLP; the defaults are the paper's 512-512-97 with two operands.

    Args:
        modulus: number of residues: the size of the vocabulary and of the answer.
        num_operands: how many residues one example has.
        embedding_size: width of one operand's embedding; the first hidden layer reads `num_operands` of them.
        hidden_size: width `d` of every hidden layer.
        num_hidden_layers: how many hidden layers there are.
        hidden_dropout: rate of the dropout after each ReLU.
        normalization: of the pre-activations: "none" (the paper's), "layer_norm" (without parameters), "layer_norm_affine",
            "layer_norm_last" (of the last hidden layer alone, without parameters), or "ngpt", see
            `hf_radial.interventions.ngpt`.

    Raises:
        ValueError: a size is not an integer of at least 1, `hidden_dropout` or `normalization` is out of range, or `id2label`
            does not have one entry per residue.
    """

    model_type = "modular_mlp"

    modulus: int = 97
    num_operands: int = 2
    embedding_size: int = 256
    hidden_size: int = 512
    num_hidden_layers: int = 2
    hidden_dropout: float = 0.0
    normalization: str = "none"

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("modulus", "num_operands", "embedding_size", "hidden_size", "num_hidden_layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, but is {value!r}")
        if not 0 <= self.hidden_dropout < 1:
            raise ValueError(f"hidden_dropout must be at least 0 and below 1, but is {self.hidden_dropout!r}")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, but is {self.normalization!r}")
        if self.id2label is None:  # A class is a residue; num_labels follows from this.
            self.id2label = {residue: str(residue) for residue in range(self.modulus)}
            self.label2id = {str(residue): residue for residue in range(self.modulus)}
        elif len(self.id2label) != self.modulus:
            raise ValueError(f"id2label has {len(self.id2label)} entries, but modulus is {self.modulus}")
        super().__post_init__(**kwargs)


class ModularMLPForSequenceClassification(PreTrainedModel):
    """Embeds each operand with one shared table, concatenates, and classifies the answer with a ReLU MLP.

    `h_0 = W_0 [e(a); e(b)] + b_0`, `h_i = W_i relu(h_{i-1}) + b_i`, `logits = W relu(h_last) + b`, where `h_i` is the
    output of module `hidden.i`. A fresh model has `N(0, 1)` embeddings and torch's default linear layers.
    """

    config_class = ModularMLPConfig
    config: ModularMLPConfig
    main_input_name = "input_ids"
    _input_embed_layer = "embedding"

    def __init__(self, config: ModularMLPConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.modulus, config.embedding_size)
        widths = [config.num_operands * config.embedding_size] + [config.hidden_size] * config.num_hidden_layers
        self.hidden = nn.ModuleList(nn.Linear(d_in, d_out) for d_in, d_out in pairwise(widths))
        self.classifier = nn.Linear(config.hidden_size, config.modulus)
        layers, d = config.num_hidden_layers, config.hidden_size
        if config.normalization.startswith("layer_norm"):
            affine = config.normalization == "layer_norm_affine"
            first = layers - 1 if config.normalization == "layer_norm_last" else 0
            norms = [nn.LayerNorm(d, elementwise_affine=affine) if i >= first else nn.Identity() for i in range(layers)]
            self.norms = nn.ModuleList(norms)
        elif config.normalization == "ngpt":
            self.scales = nn.ParameterList(torch.ones(d) for _ in range(layers))
            self.logit_scale = nn.Parameter(torch.ones(config.modulus))
        self.post_init()

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Two rows of operands to run the model on."""
        return {"input_ids": torch.arange(2 * self.config.num_operands).reshape(2, -1) % self.config.modulus}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # PreTrainedModel would give everything a standard deviation of 0.02. The functions of transformers' own
        # `initialization` skip what a checkpoint has already filled, as torch's would not.
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            init_linear(module)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        """Logits over the residues, and with `labels` the mean cross-entropy.

        Args:
            input_ids: operands in `0..modulus - 1`, integers of shape `(batch, num_operands)`.
            labels: answers in `0..modulus - 1`, integers of shape `(batch,)`.

        Returns:
            `logits` of shape `(batch, modulus)` and `loss`, a float32 scalar or None.

        Raises:
            ValueError: if `input_ids` does not have shape `(batch, num_operands)`.
        """
        if input_ids.ndim != 2 or input_ids.shape[1] != self.config.num_operands:
            raise ValueError(
                f"input_ids must have shape (batch, num_operands) with num_operands = {self.config.num_operands}, "
                f"but has shape {tuple(input_ids.shape)}"
            )
        x = self.embedding(input_ids).flatten(start_dim=1)
        if self.config.normalization == "ngpt":
            logits = self._on_unit_sphere(x)
        else:
            for i, layer in enumerate(self.hidden):
                h = layer(x)
                x = self._dropped(F.relu(h if self.config.normalization == "none" else self.norms[i](h)))
            logits = self.classifier(x)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _dropped(self, x: torch.Tensor) -> torch.Tensor:
        rate = self.config.hidden_dropout
        return F.dropout(x, rate, self.training) if rate else x  # at rate 0 it would still draw random numbers

    def _on_unit_sphere(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, where every layer reads vectors of length 1; scales are in units of `sqrt(d)`."""
        unit = math.sqrt(self.config.hidden_size)
        for layer, scale in zip(self.hidden, self.scales, strict=True):
            x = self._dropped(F.relu(layer(_unit(x)) * (unit * scale)))
        return self.classifier(_unit(x)) * (unit * self.logit_scale)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, in `x`'s dtype; a zero vector stays. (In float16, the guard against 0 / 0 would itself be 0.)"""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return F.normalize(wide, dim=-1).to(x.dtype)


AutoConfig.register(ModularMLPConfig.model_type, ModularMLPConfig, exist_ok=True)
AutoModelForSequenceClassification.register(ModularMLPConfig, ModularMLPForSequenceClassification, exist_ok=True)
