"""Record and replay: hold one run to what another run did.

Method: `record` writes down, step by step, the length of all weights, the mean length of the logits and the mean radius at
every site. `replay` makes another run follow one of these.

Source: this package's control. A penalty shortens vectors, and with them weights and logits. A run without the penalty that is
made to follow the penalised run's weight norm (or logit scale, or radius) tells whether that alone would have done it.

Use: train the first run with `record`, the second with `replay:what=weight_norm,file=FIRST_RUN/trajectory.json`, with the same
seed and the same number of steps.

Saved model: only weights, with `record` and with `replay:what=weight_norm`. `what=logit_scale` acts in training only, so the
saved model gives unscaled logits. `what=radius` acts in evaluation too: call `hf_radial.interventions.restore(model)` after
`from_pretrained`, which needs the file of the recorded run.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.gradients import wide
from hf_radial.interventions.heads import head_of
from hf_radial.interventions.weight_norm import rescale, total_norm, trained
from hf_radial.penalty.functional import is_number, radius
from hf_radial.runs.record import run_folder
from hf_radial.safe_files import write_text
from hf_radial.sites.find import find_sites
from hf_radial.sites.hooks import Hook, ModelHook, hook_sites, unhook
from hf_radial.sites.site import Site
from hf_radial.training.rows import sites_of

KINDS = ("weight_norm", "logit_scale", "radius")
FILE = "trajectory.json"


@dataclass(eq=False)
class Record(Intervention):
    """Writes `trajectory.json` into the run's folder: every so many steps the weights' length, and of the step's last batch the
    mean length of the logits and the mean radius at every site.
    """

    name: ClassVar[str] = "record"
    remembers: ClassVar[str] = "what was recorded before"
    every: int = field(default=1, metadata={"help": "Steps from one row of the record to the next.", "at_least": 1})
    rows: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False)
    seen: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def check(self, trainer: Trainer) -> None:
        if self.trainer is not trainer:
            head_of(trainer.model)
            sites_of(trainer)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self.rows, self.seen = [], {}

        def logits(module: Any, args: Any, output: Tensor) -> None:
            if module.training:
                self.seen["logit_scale"] = mean_length(output.detach())

        def vectors(site: Site, h: Tensor) -> Tensor:
            self.seen[f"radius/{site.name}"] = radius(h.detach(), site.dim).mean()
            return h

        model: Any = trainer.model
        hook_sites(model, sites_of(trainer), vectors, self.name, only_training=True)
        head_of(model).register_forward_hook(Hook(logits, self.name))

    def end(self, trainer: Trainer) -> None:
        if trainer.model is not None:
            unhook(trainer.model, self.name)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.rows.append({"step": state.global_step, "weight_norm": total_norm(trained(kwargs["model"])), **self.seen})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.write(args)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.write(args)

    def write(self, args: TrainingArguments) -> None:
        """Write the file."""
        if args.should_save:
            self.rows = [{name: value if name == "step" else float(value) for name, value in row.items()} for row in self.rows]
            write_text(run_folder(self.trainer) / FILE, json.dumps(self.rows) + "\n")

    def tensors(self) -> dict[str, Tensor]:
        """The rows, a column each; NaN where a row lacks a value."""
        names = dict.fromkeys(name for row in self.rows for name in row) or {"step": None}
        columns = {name: [float(row.get(name, torch.nan)) for row in self.rows] for name in names}
        return {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        columns = {name: tensor.tolist() for name, tensor in tensors.items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        self.rows = [{n: int(v) if n == "step" else v for n, v in row.items() if v == v} for row in rows]


def check_rows(rows: Any, what: str) -> None:
    """Raise a ValueError unless these are rows of `Record` that all have what is to be held."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it holds no list of rows")
    names = [name for name in rows[0] if name.startswith("radius/")] if what == "radius" else [what]
    for i, row in enumerate(rows):
        for name in ["step", *(names or ["radius/..."])]:
            value = row.get(name)
            if not is_number(value):
                raise ValueError(f"row {i + 1} has {name}={value!r}, which is no number")
        if i and row["step"] <= rows[i - 1]["step"]:
            raise ValueError(f"row {i + 1} has step={row['step']!r}, which is not above that of the row before")


def at_step(rows: Sequence[dict[str, Any]], name: str, step: float) -> float:
    """The value at a step: between two rows on the line through them, outside of all that of the first or last.

    >>> rows = [{"step": 10, "x": 1.0}, {"step": 20, "x": 3.0}]
    >>> [at_step(rows, "x", step) for step in (1, 10, 15, 99)]
    [1.0, 1.0, 2.0, 3.0]
    """
    i = bisect_right(rows, step, key=lambda row: row["step"])
    if i == 0 or i == len(rows):
        return float(rows[min(i, len(rows) - 1)][name])
    a, b = rows[i - 1], rows[i]
    share = (step - a["step"]) / (b["step"] - a["step"])
    return float(a[name] + share * (b[name] - a[name]))


def mean_length(logits: Tensor) -> Tensor:
    """Mean length of the logits of a batch, in float32."""
    return logits.float().norm(dim=-1).mean()


def scaled(h: Tensor, wanted: float, found: Tensor) -> Tensor:
    """`h` times `wanted / found`, multiplied in float32 or better; a zero `h` stays."""
    return (wide(h) * (wanted / found.clamp(min=1e-30)).to(wide(h).dtype)).to(h.dtype)


@dataclass
class Held:
    """What is held, and the step of the recorded run that counts now; a part of the model's hooks, and copied with them."""

    rows: list[dict[str, Any]]
    step: int = 0

    def __call__(self, site: Site, h: Tensor) -> Tensor:
        """The vectors of a site at the recorded radius."""
        return scaled(h, self.value(f"radius/{site.name}"), radius(h.detach(), site.dim).mean())

    def value(self, name: str) -> float:
        """The recorded value that counts now."""
        return at_step(self.rows, name, self.step)


@dataclass(eq=False)
class Replay(Intervention):
    """Holds a run to what `Record` wrote of another one.

    `weight_norm`: after each step all weights are rescaled. `logit_scale`: in training, the logits are multiplied by a number
    that gives them the recorded mean length in the batch. `radius`: the same for the vectors at each site, in evaluation too.
    No gradient goes through these numbers.
    """

    name: ClassVar[str] = "replay"
    what: str = field(metadata={"help": "What is held to the recorded run.", "choices": KINDS, "example": "weight_norm"})
    file: str = field(
        metadata={"help": "The recorded run's trajectory.json, which `record` writes.", "example": "runs/first/trajectory.json"}
    )
    at: int = field(
        default=-1,
        metadata={"help": "Step of the recorded run that is held all the time; -1 to follow it step by step.", "at_least": -1},
    )
    held: Held = field(default_factory=lambda: Held([]), init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not Path(self.file).is_file():
            raise ValueError(f"file={self.file!r} does not exist; a run with 'record' writes it into its folder")
        try:
            rows = json.loads(Path(self.file).read_text(encoding="utf-8"))
            check_rows(rows, self.what)
        except ValueError as error:
            raise ValueError(f"file={self.file!r} is not a trajectory.json of 'record' with {self.what}: {error}") from error
        self.held = Held(rows, max(self.at, 0))

    def check(self, trainer: Trainer) -> None:
        if self.what == "logit_scale":
            head_of(trainer.model)

    def put_in_force(self, model: Any) -> None:
        if self.what != "radius":
            return
        unhook(model, self.name)
        trainer = self.trainer
        sites = find_sites(model) if trainer is None or trainer.model is not model else sites_of(trainer)
        missing = [site.name for site in sites if f"radius/{site.name}" not in self.held.rows[0]]
        if missing:
            raise ValueError(f"replay: file={self.file!r} has no radius of {missing[0]!r}; record a run of the same model")
        hook_sites(model, sites, self.held, self.name, ModelHook)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)

        def logits(module: Any, args: Any, output: Tensor) -> Tensor | None:
            held = module.training
            return scaled(output, self.held.value("logit_scale"), mean_length(output.detach())) if held else None

        if self.what == "logit_scale":
            head_of(trainer.model).register_forward_hook(Hook(logits, self.name))

    def end(self, trainer: Trainer) -> None:
        if self.what == "logit_scale" and trainer.model is not None:
            unhook(trainer.model, self.name)

    def text_to_restore(self) -> str | None:
        return (
            f"{self.name}:what=radius,file={Path(self.file).resolve()},at={self.held.step}" if self.what == "radius" else None
        )

    def follow(self, step: int) -> None:
        """Let this step of the recorded run count, unless one is fixed."""
        if self.at < 0:
            self.held.step = step

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.follow(state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.follow(state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.follow(state.global_step)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.what == "weight_norm":
            rescale(trained(kwargs["model"]), self.held.value("weight_norm"))
