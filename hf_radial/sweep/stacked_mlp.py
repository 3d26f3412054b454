"""`StackedMLP`: several `ModularMLPForSequenceClassification` of one shape, whose losses and gradients are computed together.

Here: the parameters of all members as tensors with the members on the first axis, the forward pass, and the gradient of the
task loss and of the hypersphere penalty, written out. No member depends on the others. Not here: optimizer, order of rows, logs
(`hf_radial.sweep`).

The gradient is written by hand for speed. The step of a model this small spends its time in Python, in autograd's bookkeeping
and in the optimizer, not in matrix products. `torch.func.vmap` of `grad` removes much of that. The hand-written step is faster
still, since it uses two facts (benchmarks/sweep_speed.py measures both):

- There are far fewer operands than rows. The first layer is therefore applied to the embedding table instead of the rows:
  `W_0 [e(a); e(b)] = (E A^T)_a + (E B^T)_b` with `W_0 = [A B]`. A row is a sum of rows of two small tables.
- Its gradient sums rows by operand. After sorting, this is a fast sum of neighbouring rows. It is also the same in every run,
  unlike `index_add` on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification

SHAPE = ("modulus", "num_operands", "embedding_size", "hidden_size", "num_hidden_layers", "normalization")
STACKED_NORMALIZATIONS = ("none", "layer_norm", "layer_norm_last")
EPS = nn.LayerNorm(1).eps
EMBEDDING = "embedding.weight"
FIRST = "hidden.0.weight"  # its columns are ordered by operand
BLOCK = 2**18  # activations of one layer that fit into a processor's cache; members beyond that are computed afterwards


@dataclass(frozen=True)
class StepValues:
    """Means over the batch of one step, one column per member, on the members' device.

    Attributes:
        task_loss: cross-entropy, shape `(members,)`.
        penalty: `(||h|| - R)^2 / d` at every site, shape `(sites, members)`.
        radius: `||h||` at every site, shape `(sites, members)`.
    """

    task_loss: Tensor
    penalty: Tensor
    radius: Tensor


def side_bounds(sides: Sequence[str], like: Tensor) -> Tensor | None:
    """The least and the greatest `r - R` on which each member's penalty acts; `None` if all act on both sides.

    Args:
        sides: `"both"`, `"above"` or `"below"`, one for each member.
        like: a tensor that gives dtype and device.

    Returns:
        Shape `(2, members, 1)`.
    """
    if all(side == "both" for side in sides):
        return None
    low = [0.0 if side == "above" else -inf for side in sides]
    high = [0.0 if side == "below" else inf for side in sides]
    return torch.tensor([low, high], dtype=like.dtype, device=like.device).unsqueeze(-1)


class StackedMLP:
    """The parameters of several models of one shape, and their gradients.

    Args:
        models: at least one; copied, in their dtype.
        device: where to compute.
        temperatures: what each member's logits are divided by; 1 for all if left out.

    Attributes:
        parameters, gradients: name of a model's parameter -> tensors of shape `(members, ...)`: one tensor, or one per operand
            for the columns of the first layer.

    Raises:
        TypeError: a model is not a `ModularMLPForSequenceClassification`.
        ValueError: there is no model, or they differ in shape or dtype.

    Example:
        >>> config = ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8)
        >>> models = [ModularMLPForSequenceClassification(config) for _ in range(3)]
        >>> stack = StackedMLP(models)
        >>> stack.logits(torch.tensor([[3, 5], [6, 6]])).shape
        torch.Size([3, 2, 7])
    """

    def __init__(
        self,
        models: Sequence[ModularMLPForSequenceClassification],
        device: torch.device | str | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> None:
        if not models:
            raise ValueError("models is empty; give at least one")
        for model in models:
            if not isinstance(model, ModularMLPForSequenceClassification):
                raise TypeError(
                    f"models: {type(model).__name__} cannot be stacked, only ModularMLPForSequenceClassification can; train "
                    "others one by one with RadialTrainer"
                )
        self.config: ModularMLPConfig = models[0].config
        for model in models:
            if model.config.normalization not in STACKED_NORMALIZATIONS or model.config.hidden_dropout:
                raise ValueError(
                    f"models with hidden_dropout, or with normalization={model.config.normalization!r}, cannot be stacked; "
                    "train them one by one"
                )
        for name in SHAPE:
            found = sorted({getattr(model.config, name) for model in models})
            if len(found) > 1:
                raise ValueError(f"models differ in {name}: {found}; only models of one shape can be stacked")
        if len({model.dtype for model in models}) > 1:
            raise ValueError("models differ in dtype; give them one")
        states = [model.state_dict() for model in models]
        self.parameters: dict[str, list[Tensor]] = {}
        for name in states[0]:
            stacked = torch.stack([state[name].detach() for state in states]).to(device)
            pieces = stacked.chunk(self.config.num_operands, -1) if name == FIRST else (stacked,)
            self.parameters[name] = [piece.contiguous() for piece in pieces]
        self.temperatures: Tensor | None = None
        if temperatures is not None and any(temperature != 1 for temperature in temperatures):
            self.temperatures = torch.tensor(temperatures, dtype=models[0].dtype, device=self.device).view(-1, 1, 1)
        self._prepare()

    def _prepare(self) -> None:
        self.gradients = {name: [torch.zeros_like(piece) for piece in self.parameters[name]] for name in self.parameters}
        self._offsets: dict[int, Tensor] = {}
        self._spaces: dict[tuple[Any, ...], Tensor] = {}

    def _space(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor. On a CPU it is reused in every step, since new memory costs more than filling it."""
        key = (name, *shape)
        if key not in self._spaces:
            space = self.parameters[FIRST][0].new_empty(shape)
            if self.device.type != "cpu":  # a GPU's allocator reuses memory
                return space
            self._spaces[key] = space
        return self._spaces[key]

    def __len__(self) -> int:
        """Number of members."""
        return len(self.parameters[FIRST][0])

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return self.parameters[FIRST][0].device

    def state_dict(self, member: int) -> dict[str, Tensor]:
        """A copy of one member's parameters, as its model names them."""
        return {name: torch.cat([piece[member] for piece in pieces], -1) for name, pieces in self.parameters.items()}

    def keep(self, members: Sequence[int]) -> None:
        """Keep only these members, in this order."""
        chosen = torch.as_tensor(members, device=self.device)
        self.parameters = {name: [piece[chosen] for piece in pieces] for name, pieces in self.parameters.items()}
        self.temperatures = None if self.temperatures is None else self.temperatures[chosen]
        self._prepare()

    @property
    def sites(self) -> list[str]:
        """Names of the sites of the penalty: what each ReLU reads."""
        layers = range(self.config.num_hidden_layers)
        return [f"norms.{i}" if self._is_normalized(i) else f"hidden.{i}" for i in layers]

    # Forward ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, input_ids: Tensor) -> Tensor:
        """Logits of every member, for the same rows or for its own.

        Args:
            input_ids: operands, integers of shape `(rows, num_operands)`, or `(members, rows, num_operands)`.

        Returns:
            Shape `(members, rows, modulus)`.
        """
        input_ids = input_ids.to(self.device)
        input_ids = input_ids.expand(len(self), *input_ids.shape[-2:])
        logits = self.parameters[FIRST][0].new_empty(*input_ids.shape[:2], self.config.modulus)
        for block in self._blocks(input_ids.shape[1]):
            index = self._index(input_ids[block])
            logits[block] = self._forward(block, index)[-1]
        return logits

    def _blocks(self, rows: int) -> Iterator[slice]:
        size = len(self)
        if self.device.type == "cpu":
            size = max(1, min(size, BLOCK // (rows * self.config.hidden_size)))
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    def _index(self, input_ids: Tensor) -> Tensor:
        """Rows of the tables of `_tables`, shape `(members * batch, num_operands)`."""
        members = len(input_ids)
        if members not in self._offsets:
            tables = torch.arange(self.config.num_operands * members, device=self.device) * self.config.modulus
            self._offsets[members] = tables.view(-1, 1, members).mT.permute(1, 0, 2).reshape(members, 1, -1)
        return (input_ids + self._offsets[members]).flatten(0, 1)

    def _tables(self, block: slice) -> Tensor:
        """What each operand adds to the first layer's output, shape `(num_operands, members, modulus, d)`."""
        embedding, bias = self.parameters["embedding.weight"][0][block], self.parameters["hidden.0.bias"][0][block]
        columns = [piece[block] for piece in self.parameters[FIRST]]
        tables = self._space("tables", len(columns), *embedding.shape[:2], self.config.hidden_size)
        torch.baddbmm(bias.unsqueeze(1), embedding, columns[0].mT, out=tables[0])
        for table, weight in zip(tables[1:], columns[1:], strict=True):
            torch.bmm(embedding, weight.mT, out=table)
        return tables

    def _forward(self, block: slice, index: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Outputs of the hidden layers, the same after ReLU, and logits, each of shape `(members, batch, ...)`."""
        tables = self._tables(block)
        h = F.embedding_bag(index, tables.flatten(0, 2), mode="sum").view(tables.shape[1], -1, tables.shape[-1])
        self._norms: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        outputs = [self._normalized(h, 0)]
        activations = [self._relu(outputs[-1], 0)]
        for i in range(1, self.config.num_hidden_layers):
            outputs.append(self._normalized(self._linear(block, f"hidden.{i}", activations[-1]), i))
            activations.append(self._relu(outputs[-1], i))
        logits = self._linear(block, "classifier", activations[-1])
        if self.temperatures is not None:
            logits.div_(self.temperatures[block])
        return outputs, activations, logits

    def _normalized(self, h: Tensor, layer: int) -> Tensor:
        """What the ReLU of a layer reads; what the gradient needs stays in `_norms`."""
        if not self._is_normalized(layer):
            return h
        out, mean, scale = torch.native_layer_norm(h, (h.shape[-1],), None, None, EPS)
        self._norms[layer] = h, mean, scale
        return out

    def _is_normalized(self, layer: int) -> bool:
        kind = self.config.normalization
        return kind == "layer_norm" or (kind == "layer_norm_last" and layer == self.config.num_hidden_layers - 1)

    def _relu(self, h: Tensor, layer: int) -> Tensor:
        return torch.clamp_min(h, 0, out=self._space(f"relu.{layer}", *h.shape))

    def _linear(self, block: slice, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameters[f"{name}.weight"][0][block], self.parameters[f"{name}.bias"][0][block]
        out = self._space(name, *x.shape[:2], weight.shape[1])
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT, out=out)

    # Loss and gradient ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(
        self,
        input_ids: Tensor,
        labels: Tensor,
        targets: Tensor,
        bounds: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> StepValues:
        """Set `gradients` to those of each member's mean cross-entropy plus the weighted sum of its penalties.

        Args:
            input_ids: each member's operands, integers of shape `(members, batch, num_operands)`.
            labels: each member's answers, integers of shape `(members, batch)`.
            targets: the radius `R` of every site, shape `(sites, members)`.
            bounds: from `side_bounds`, between which `r - R` counts; `None` if every penalty acts on both sides.
            weights: weight of every penalty, shape `(sites, members)`; `None` if all are 0.
        """
        values = [
            self._step(
                block,
                input_ids[block],
                labels[block],
                targets[:, block],
                None if bounds is None else bounds[:, block],
                None if weights is None else weights[:, block],
            )
            for block in self._blocks(labels.shape[1])
        ]
        if len(values) == 1:
            return values[0]
        return StepValues(
            torch.cat([v.task_loss for v in values]),
            torch.cat([v.penalty for v in values], 1),
            torch.cat([v.radius for v in values], 1),
        )

    def _step(
        self,
        block: slice,
        input_ids: Tensor,
        labels: Tensor,
        targets: Tensor,
        bounds: Tensor | None,
        weights: Tensor | None,
    ) -> StepValues:
        members, batch = labels.shape
        index = self._index(input_ids)
        outputs, activations, logits = self._forward(block, index)

        radii = torch.stack([torch.linalg.vector_norm(h, dim=-1) for h in outputs])  # (sites, members, batch)
        excess = radii - targets.unsqueeze(-1)
        if bounds is not None:
            excess = excess.clamp_(bounds[0], bounds[1])
        pull: Tensor | None = None
        if weights is not None:  # gradient of a vector's penalty: (2/d) (r - R) h / r, none at the origin
            share = weights * (2 / (self.config.hidden_size * batch))
            pull = (share.unsqueeze(-1) * excess / radii).masked_fill_(radii == 0, 0.0).unsqueeze(-1)

        logits = logits.flatten(0, 1)
        log_p = torch.ops.aten._log_softmax.out(logits, -1, False, out=self._space("log_p", *logits.shape))
        answers = labels.reshape(-1, 1)
        task_loss = log_p.gather(1, answers).view(members, batch).mean(1).neg_()
        # The same as autograd, in one pass. exp() takes ten times as long if probabilities are denormal numbers.
        g = self._space("of log_p", *logits.shape).zero_().scatter_(1, answers, -1 / batch)
        g = torch.ops.aten._log_softmax_backward_data.out(g, log_p, -1, g.dtype, out=self._space("of logits", *logits.shape))
        g = g.view(members, batch, -1)
        if self.temperatures is not None:
            g.div_(self.temperatures[block])

        g = self._linear_gradient(block, "classifier", g, activations[-1])
        for i in reversed(range(len(outputs))):
            torch.ops.aten.threshold_backward.grad_input(g, activations[i], 0, grad_input=g)
            if pull is not None:
                g.addcmul_(outputs[i], pull[i])
            if i in self._norms:
                h, mean, scale = self._norms[i]
                mask = [True, False, False]  # of the input alone: it has no parameters
                g = torch.ops.aten.native_layer_norm_backward(g, h, (h.shape[-1],), mean, scale, None, None, mask)[0]
            if i > 0:
                g = self._linear_gradient(block, f"hidden.{i}", g, activations[i - 1])
        self._first_gradient(block, g, index)
        return StepValues(task_loss, excess.square_().mean(-1).div_(self.config.hidden_size), radii.mean(-1))

    def _linear_gradient(self, block: slice, name: str, g: Tensor, x: Tensor) -> Tensor:
        """Set the gradients of a layer with input `x` from that of its output, `g`; returns that of `x`."""
        torch.bmm(g.mT, x, out=self.gradients[f"{name}.weight"][0][block])
        torch.sum(g, 1, out=self.gradients[f"{name}.bias"][0][block])
        return torch.bmm(g, self.parameters[f"{name}.weight"][0][block], out=self._space(f"of {name}'s input", *x.shape))

    def _first_gradient(self, block: slice, g: Tensor, index: Tensor) -> None:
        """The same for the first layer and the embedding."""
        embedding, embedding_gradient = (named["embedding.weight"][0][block] for named in (self.parameters, self.gradients))
        operands, (members, modulus) = index.shape[1], embedding.shape[:2]
        places, order = torch.sort(index.flatten(), stable=True)
        starts = torch.searchsorted(places, torch.arange(operands * members * modulus, device=self.device))
        tables = F.embedding_bag(order // operands, g.flatten(0, 1), starts, mode="sum")
        tables = tables.view(operands, members, modulus, -1)
        torch.sum(tables[0], 1, out=self.gradients["hidden.0.bias"][0][block])
        for j, table in enumerate(tables):
            torch.bmm(table.mT, embedding, out=self.gradients[FIRST][j][block])
            weight = self.parameters[FIRST][j][block]
            if j == 0:
                torch.bmm(table, weight, out=embedding_gradient)
            else:
                embedding_gradient.baddbmm_(table, weight)
