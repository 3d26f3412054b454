"""`Stack`: several `VectorMLPForClassification` of one shape that are trained together, and the methods that can train them.

The parameters have the members on the first axis, so that one batched matrix product serves all members. The methods are the
pure functions of `hf_radial.interventions` and `hf_radial.penalty`, which work with that axis as they do without it. A member
is trained as a `RadialTrainer` with the same interventions would train it, up to rounding (a test compares them).

In here: forward pass, loss, gradient, AdamW and methods. Not in here: the order of rows and the measurements (`sequence`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_radial.internals.torch_modules import fused_adam_step
from hf_radial.interventions.boundary import draw_seed, drawn_like
from hf_radial.interventions.ewc import ewc_gradient
from hf_radial.interventions.l2_init import l2_init_gradient
from hf_radial.interventions.projection import project_to_sphere
from hf_radial.interventions.redo import dormant, recycle
from hf_radial.interventions.shrink_perturb import shrink_and_perturb
from hf_radial.interventions.spectral_penalty import first_vector, power_step, spectral_gradient
from hf_radial.models.vector_mlp import VectorMLPConfig, VectorMLPForClassification
from hf_radial.penalty.functional import penalty_of_radius, radius

BETAS, EPS = (0.9, 0.999), 1e-8  # the Trainer's
SHARED = ("radial_radius", "normalization", "projection", "redo_every", "replay", "kept")  # the same for all members


@dataclass(frozen=True)
class Options:
    """How one member is trained: AdamW, and at most a few of the methods. A number of 0 leaves its method out.

    Attributes:
        learning_rate, weight_decay: of AdamW; biases do not decay.
        radial_lambda, radial_radius: the hypersphere penalty; "sqrt_d" (the paper's) or "initial".
        normalization: "none" or "layer_norm".
        projection: mode of the projection to the sphere of radius sqrt(d), or empty.
        l2_init, spectral_penalty, ewc: strengths.
        shrink, noise: shrink and perturb, at the end of each task.
        redo_threshold, redo_every: ReDo.
        replay, kept: rows of earlier tasks in a batch, and rows of each earlier task that are kept for it.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    radial_lambda: float = 0.0
    radial_radius: str = "sqrt_d"
    normalization: str = "none"
    projection: str = ""
    l2_init: float = 0.0
    spectral_penalty: float = 0.0
    ewc: float = 0.0
    shrink: float = 0.0
    noise: float = 0.0
    redo_threshold: float = 0.0
    redo_every: int = 0
    replay: int = 0
    kept: int = 0

    def interventions(self) -> list[str]:
        """The same training, as interventions of a trainer with this learning rate. Replay is the order of rows instead."""
        given = {
            "weight_decay": self.weight_decay and f"value={self.weight_decay!r}",
            "radial": self.radial_lambda and f"strength={self.radial_lambda!r},radius={self.radial_radius}",
            "layer_norm": self.normalization == "layer_norm" and "affine=false",
            "projection": self.projection and f"mode={self.projection}",
            "l2_init": self.l2_init and f"strength={self.l2_init!r}",
            "spectral_penalty": self.spectral_penalty and f"strength={self.spectral_penalty!r}",
            "ewc": self.ewc and f"strength={self.ewc!r}",
            "shrink_perturb": (self.shrink or self.noise) and f"shrink={self.shrink!r},noise={self.noise!r}",
            "redo": self.redo_every and f"threshold={self.redo_threshold!r},every={self.redo_every}",
        }
        return [f"{name}:{options}" for name, options in given.items() if options]


def initial_model(config: VectorMLPConfig, seed: int) -> VectorMLPForClassification:
    """A member's model before training. The random state of the caller stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VectorMLPForClassification(config)


class Stack:
    """Members of one shape.

    Args:
        config: of every member's model; `normalization` is that of the options.
        members: seed and options of each member. What a batched computation cannot mix (`SHARED`) must be the same for all.

    Raises:
        ValueError: there is no member, or members differ in one of `SHARED`.

    Example:
        >>> stack = Stack(VectorMLPConfig(input_size=4, hidden_size=8), [(0, Options()), (1, Options(weight_decay=0.1))])
        >>> logits, sites = stack.forward(torch.ones(2, 3, 4))
        >>> logits.shape, [h.shape for h in sites]
        (torch.Size([2, 3, 10]), [torch.Size([2, 3, 8]), torch.Size([2, 3, 8])])
    """

    def __init__(self, config: VectorMLPConfig, members: Sequence[tuple[int, Options]]) -> None:
        if not members:
            raise ValueError("members is empty; give at least one")
        self.seeds = [seed for seed, _ in members]
        self.shared = members[0][1]
        for name in SHARED:
            found = {getattr(options, name) for _, options in members}
            if len(found) > 1:
                raise ValueError(f"members differ in {name}: {sorted(map(str, found))}; train them in stacks of their own")
        columns = {one.name: [getattr(options, one.name) for _, options in members] for one in fields(Options)}
        self.of = {name: torch.tensor(column) for name, column in columns.items() if name not in SHARED}
        self.config = VectorMLPConfig(**{**_sizes(config), "normalization": self.shared.normalization})
        models = [initial_model(self.config, seed) for seed in self.seeds]
        self.names = [name for name, _ in models[0].named_parameters()]
        states = [dict(model.named_parameters()) for model in models]
        initial = [torch.stack([state[name].detach() for state in states]) for name in self.names]
        # All parameters of a member lie in one row, matrices first, so that its optimizer step is one call.
        size = sum(p[0].numel() for p in initial)
        self.rows, self.row_gradients, self.row_first, self.row_second = torch.zeros(4, len(members), size).unbind()
        self.decayed = sum(p[0].numel() for p in initial if p.ndim == 3)
        self._places = _places(initial)
        self.parameters = self._views(self.rows)
        for p, own in zip(self.parameters, initial, strict=True):
            p.copy_(own).requires_grad_()
        self.first, self.second = self._views(self.row_first), self._views(self.row_second)
        self.gradients = self._views(self.row_gradients)
        self.initial = initial
        self.vectors = {i: first_vector(p) for i, p in enumerate(self.initial) if p.ndim == 3}
        self.fisher: list[Tensor] = []
        self.anchor: list[Tensor] = []
        self.targets: Tensor | None = None
        self.step_number = 0
        self._rates: list[float] = self.of["learning_rate"].tolist()

    def __len__(self) -> int:
        """Number of members."""
        return len(self.seeds)

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight `(members, out, in)` and bias `(members, out)` of every layer, the classifier last."""
        return list(zip(self.parameters[::2], self.parameters[1::2], strict=True))

    def _views(self, rows: Tensor) -> list[Tensor]:
        """A tensor `(members, ...)` for each parameter, in the memory of the rows."""
        return [rows[:, start : start + math.prod(shape)].view(len(rows), *shape) for start, shape in self._places]

    def state_dict(self, member: int) -> dict[str, Tensor]:
        """One member's weights, as its model names them."""
        return {name: p[member].detach().clone() for name, p in zip(self.names, self.parameters, strict=True)}

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `(members, rows, classes)` of `x` `(members, rows, inputs)`, and the vectors `(members, rows, d)` of sites.

        `x` is scaled already. The vectors are those before a projection, as the penalty sees them.
        """
        _, outputs, sites = self._run(x)
        return outputs[-1], sites

    def _run(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Inputs and outputs of all linear layers, and the vectors of sites."""
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        sites: list[Tensor] = []
        for weight, bias in self.layers:
            if outputs:
                h = outputs[-1]
                if self.shared.normalization == "layer_norm":
                    h = F.layer_norm(h, h.shape[-1:])
                sites.append(h)
                x = F.relu(project_to_sphere(h, mode=self.shared.projection) if self.shared.projection else h)
            inputs.append(x)
            outputs.append(torch.baddbmm(bias.unsqueeze(1), x, weight.mT))
        return inputs, outputs, sites

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the targets of the penalty: each site's own mean radius on these rows, or the paper's sqrt(d)."""
        _, sites = self.forward(x)
        if self.shared.radial_radius == "initial":
            self.targets = torch.stack([radius(h).mean(1) for h in sites])
        else:
            self.targets = torch.full((len(sites), len(self)), math.sqrt(self.config.hidden_size))

    def step(self, x: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step of every member on its batch; returns which rows it had right before the step.

        Args:
            x: `(members, rows, inputs)`.
            labels: `(members, rows)`.
        """
        logits, sites = self.forward(x)
        losses = F.cross_entropy(logits.mT, labels, reduction="none").mean(1)
        if self.of["radial_lambda"].any():
            if self.targets is None:
                self.calibrate(x)
            targets: Any = self.targets
            for h, target in zip(sites, targets, strict=True):
                off = penalty_of_radius(radius(h), h.shape[-1], target.unsqueeze(1), None, side="both", reduction="none")
                losses = losses + self.of["radial_lambda"] * off.mean(1)
        found = torch.autograd.grad(losses.sum(), self.parameters)
        self.step_number += 1
        with torch.no_grad():
            for i, gradient in enumerate(self.gradients):
                gradient.copy_(found[i])
                self._add(i, self.parameters[i], gradient)
            self._adamw()
            if self.shared.redo_every and self.step_number % self.shared.redo_every == 0:
                self._recycle(sites)
        return logits.detach().argmax(-1) == labels

    def _each(self, name: str, like: Tensor) -> Tensor:
        """A member's number, to be multiplied with a parameter."""
        return self.of[name].view(-1, *[1] * (like.ndim - 1))

    def _add(self, i: int, parameter: Tensor, gradient: Tensor) -> None:
        """Add the methods' own gradients."""
        if self.of["l2_init"].any():
            gradient += l2_init_gradient(parameter, self.initial[i], self._each("l2_init", parameter))
        if self.of["ewc"].any() and self.fisher:
            gradient += ewc_gradient(parameter, self.anchor[i], self.fisher[i], self._each("ewc", parameter))
        if self.of["spectral_penalty"].any() and i in self.vectors:
            self.vectors[i], v, sigma = power_step(parameter, self.vectors[i])
            gradient += spectral_gradient(self.vectors[i], v, sigma, self.of["spectral_penalty"])

    def _adamw(self) -> None:
        """As `torch.optim.AdamW`, with its fused kernel, member by member; matrices decay and biases do not."""
        step = torch.tensor(float(self.step_number))
        if self.of["weight_decay"].any():
            self.rows[:, : self.decayed].mul_((1 - self.of["learning_rate"] * self.of["weight_decay"]).unsqueeze(1))
        columns = (tensor.unbind() for tensor in (self.rows, self.row_gradients, self.row_first, self.row_second))
        for rate, row, gradient, first, second in zip(self._rates, *columns, strict=True):
            fused_adam_step(row, gradient, first, second, step, rate, BETAS, EPS)

    def _recycle(self, sites: list[Tensor]) -> None:
        for i, h in enumerate(sites):
            which = dormant(h.relu().mean(-2), self.of["redo_threshold"].unsqueeze(1))
            weight, bias, after = (self.parameters[place] for place in (2 * i, 2 * i + 1, 2 * i + 2))
            seeds = [draw_seed(seed, self.step_number, i) for seed in self.seeds]
            fresh = torch.stack([drawn_like(own, seed) for own, seed in zip(self.initial[2 * i], seeds, strict=True)])
            recycle(weight, bias, after, which, fresh)
            for moments in (self.first, self.second):
                moments[2 * i].masked_fill_(which.unsqueeze(-1), 0.0)
                moments[2 * i + 1].masked_fill_(which, 0.0)
                moments[2 * i + 2].masked_fill_(which.unsqueeze(-2), 0.0)

    def end_task(self, x: Tensor, labels: Tensor) -> None:
        """What the methods do between two tasks; the rows are training rows of the task that ends."""
        if self.of["ewc"].any():
            found = self._fisher(x, labels)
            self.fisher = [old + new for old, new in zip(self.fisher, found, strict=True)] if self.fisher else found
            self.anchor = [p.detach().clone() for p in self.parameters]
        if self.of["shrink"].any() or self.of["noise"].any():
            with torch.no_grad():
                for place, (p, initial) in enumerate(zip(self.parameters, self.initial, strict=True)):
                    seeds = [draw_seed(seed, self.step_number, place) for seed in self.seeds]
                    draws = torch.stack([drawn_like(own, seed) for own, seed in zip(initial, seeds, strict=True)])
                    shrink_and_perturb(p, draws, self._each("shrink", p), self._each("noise", p))

    def _fisher(self, x: Tensor, labels: Tensor) -> list[Tensor]:
        """Mean over rows of the squared gradient of a row's loss, by parameter.

        A row's gradient of a linear layer is `delta a^T`, with the layer's input `a` and the gradient `delta` of its output.
        Its square, summed over rows, is one matrix product of squares.
        """
        inputs, outputs, _ = self._run(x)
        loss = F.cross_entropy(outputs[-1].mT, labels, reduction="sum")
        found = []
        for a, delta in zip(inputs, torch.autograd.grad(loss, outputs), strict=True):
            squares = delta.square()
            found += [squares.mT @ a.detach().square() / x.shape[1], squares.mean(1)]
        return found


def _places(parameters: Sequence[Tensor]) -> list[tuple[int, tuple[int, ...]]]:
    """Where each parameter begins in a member's row, and its shape. Matrices come first."""
    places, start = {}, 0
    for i in sorted(range(len(parameters)), key=lambda i: -parameters[i].ndim):
        shape = tuple(parameters[i].shape[1:])
        places[i] = (start, shape)
        start += math.prod(shape)
    return [places[i] for i in range(len(parameters))]


def _sizes(config: VectorMLPConfig) -> dict[str, Any]:
    names = ("input_size", "input_scale", "hidden_size", "num_hidden_layers", "num_classes")
    return {name: getattr(config, name) for name in names}
