"""One run's trajectory recorded, and another run held to it: controls that tell a cause from what moves along with it.

A penalty shortens vectors, and with them weights and logits. A run without the penalty whose weight norm (or logit scale, or
radius) is made to follow that of the penalised run answers whether that alone would have done it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_radial.interventions.base import Intervention
from hf_radial.interventions.heads import head_of
from hf_radial.interventions.weight_norm import rescale, total_norm, trained
from hf_radial.penalty.functional import radius
from hf_radial.safe_files import write_text
from hf_radial.sites.hooks import Hook, hook_sites
from hf_radial.training.rows import sites_of

KINDS = ("weight_norm", "logit_scale", "radius")
FILE = "trajectory.json"


@dataclass(eq=False)
class Record(Intervention):
    """Writes `trajectory.json` into the run's folder: after each `every` steps the weights' length, and of the step's last
    batch the mean length of the logits and the mean radius at every site.

    Args:
        every: steps.
    """

    name: ClassVar[str] = "record"
    every: int = 1
    rows: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False)
    seen: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every={self.every} must be a whole number of steps, at least 1")

    def attach(self, trainer: Trainer) -> None:
        model: Any = trainer.model

        def logits(module: Any, args: Any, output: Tensor) -> None:
            if model.training:
                self.seen["logit_scale"] = output.detach().float().norm(dim=-1).mean()

        def vectors(site: Any, h: Tensor) -> Tensor:
            if model.training:
                self.seen[f"radius/{site.name}"] = radius(h.detach(), site.dim).mean()
            return h

        head_of(model).register_forward_hook(Hook(logits))
        hook_sites(model, sites_of(trainer), vectors)
        super().attach(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        file = Path(str(args.output_dir)) / FILE
        self.rows = []
        if state.global_step and file.is_file():  # a run that goes on
            self.rows = [row for row in json.loads(file.read_text()) if row["step"] <= state.global_step]
        super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.rows.append({"step": state.global_step, "weight_norm": total_norm(trained(kwargs["model"])), **self.seen})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.write(args)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.write(args)

    def write(self, args: TrainingArguments) -> None:
        if args.should_save:
            self.rows = [{name: value if name == "step" else float(value) for name, value in row.items()} for row in self.rows]
            write_text(Path(str(args.output_dir)) / FILE, json.dumps(self.rows) + "\n")


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


@dataclass(eq=False)
class Replay(Intervention):
    """Holds a run to what `Record` wrote of another one.

    Args:
        what: "weight_norm": after each step all weights are rescaled. "logit_scale": in training, the logits are multiplied by
            a number, so that their mean length in the batch is the recorded one. "radius": the same for the vectors at each
            site, in evaluation too. No gradient goes through these numbers.
        file: the other run's `trajectory.json`.
    """

    name: ClassVar[str] = "replay"
    what: str
    file: str
    rows: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.what not in KINDS:
            raise ValueError(f"what={self.what!r} is unknown; choose one of {', '.join(KINDS)}")
        if not Path(self.file).is_file():
            raise ValueError(f"file={self.file!r} does not exist; the intervention 'record' writes one")
        self.rows = json.loads(Path(self.file).read_text())
        if not self.rows or (self.what != "radius" and self.what not in self.rows[0]):
            raise ValueError(f"file={self.file!r} has no {self.what}")

    def attach(self, trainer: Trainer) -> None:
        model: Any = trainer.model

        def logits(module: Any, args: Any, output: Tensor) -> Tensor | None:
            if not model.training:
                return None
            wanted = at_step(self.rows, "logit_scale", trainer.state.global_step + 1)
            return output * (wanted / output.detach().float().norm(dim=-1).mean().clamp(min=1e-30)).to(output.dtype)

        def vectors(site: Any, h: Tensor) -> Tensor:
            wanted = at_step(self.rows, f"radius/{site.name}", trainer.state.global_step + int(model.training))
            return h * (wanted / radius(h.detach(), site.dim).mean().clamp(min=1e-30)).to(h.dtype)

        if self.what == "logit_scale":
            head_of(model).register_forward_hook(Hook(logits))
        elif self.what == "radius":
            sites = sites_of(trainer)
            missing = [site.name for site in sites if f"radius/{site.name}" not in self.rows[0]]
            if missing:
                raise ValueError(f"replay: file={self.file!r} has no radius of {missing[0]!r}")
            hook_sites(model, sites, vectors)
        super().attach(trainer)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.what == "weight_norm":
            rescale(trained(kwargs["model"]), at_step(self.rows, "weight_norm", state.global_step + 1))
