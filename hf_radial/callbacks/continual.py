"""`ContinualCallback`: what a network keeps and still can learn, while any `Trainer` trains it on one task after the other.

It evaluates between steps and changes nothing about training: weights, optimizer and random states stay the same. It also tells
the other callbacks where a task ends, by an event that `Trainer` does not have:

    def on_task_end(self, args, state, control, *, task, rows, **kwargs): ...

It comes after the step that ends task number `task`, once all tasks so far are evaluated; `rows` are training rows of the task
as a batch, or `None`. Interventions that act between tasks, such as `ewc` and `shrink_perturb`, listen to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_radial.callbacks.geometry import GeometryCallback
from hf_radial.geometry.reading import TABLE_FILE, Reading, Table, read_table
from hf_radial.geometry.spectrum import effective_rank, singular_values
from hf_radial.geometry.units import dead_share
from hf_radial.internals.frames import calling_trainer, resumed_from
from hf_radial.penalty.functional import radius
from hf_radial.runs import retention
from hf_radial.runs.record import run_folder
from hf_radial.safe_files import write_text
from hf_radial.sites.hooks import hook_sites, unhook
from hf_radial.sites.preserve import evaluating, preserve_random_state
from hf_radial.sites.site import Site
from hf_radial.tasks.turns import TasksInTurn
from hf_radial.training.rows import sites_of

STATE_FILE = "continual.json"
PREFIX = "continual"
HOOK = "continual"
Batch = Mapping[str, Tensor]


class ContinualCallback(TrainerCallback):
    """Evaluates all tasks so far at the end of each task, and measures how fast the next one is learned.

        train = TasksInTurn(columns, epochs=5, batch_size=60)
        Trainer(..., train_dataset=train, callbacks=[ContinualCallback.of(train, held_out)])

    It logs `continual/current`, `retention`, `backward_transfer`, `forgetting` (definitions in `hf_radial.runs.retention`, of
    the tasks so far) and `steps_to_90` of the task that ends. The table `geometry.parquet` gets, at the last step of each task:
    `task_accuracy` of each task so far (`index` is the task), `steps_to_90`, and for each site `radius_mean`,
    `effective_rank` and, where a ReLU follows, `dead_units`; for each matrix `weight_norm`. A `GeometryCallback` of the same
    trainer writes them with its own. A resumed run continues from its checkpoint.

    Args:
        steps: optimizer steps of each task, in order.
        held_out: for each task, the rows to evaluate, `{name: tensor}` with `labels`, as the model takes them.
        rows: training rows of a task as a batch, for the callbacks that listen; `None` to give none.
        every: steps between two evaluations of the task that is trained on, for `steps_to_90`.
        level: the accuracy that counts as learned; with another level than 0.9, the name says it (`steps_to_80`).
        batch_size: rows that are evaluated at once.

    Raises:
        ValueError: `steps` or `held_out` is empty, they differ in length, or a number is out of range.
        RuntimeError: it is not called by a `Trainer`.

    Attributes:
        accuracy: `(T, T)`, accuracy on task j after task i; NaN where it was not measured.
    """

    def __init__(
        self,
        steps: Sequence[int],
        held_out: Sequence[Batch],
        *,
        rows: Callable[[int], Batch] | None = None,
        every: int = 10,
        level: float = 0.9,
        batch_size: int = 1024,
    ) -> None:
        if not steps or len(steps) != len(held_out) or min(steps) < 1:
            raise ValueError(
                f"steps has {len(steps)} tasks and held_out {len(held_out)}: give the same number, at least 1, with at "
                "least one step for each task"
            )
        for name, value in (("every", every), ("batch_size", batch_size)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        if not 0 < level <= 1:
            raise ValueError(f"level={level!r} must be above 0 and at most 1")
        for task, batch in enumerate(held_out):
            if "labels" not in batch or not len(batch["labels"]):
                raise ValueError(f"held_out[{task}] must hold rows with 'labels', but has {', '.join(batch)}")
        self.ends = list(accumulate(steps))
        self.held_out, self.rows, self.every, self.level, self.batch_size = held_out, rows, every, level, batch_size
        self.learned = f"steps_to_{100 * level:g}"
        self.accuracy = np.full((len(steps), len(steps)), np.nan)
        self.table = Table()

    @classmethod
    def of(cls, train: TasksInTurn, held_out: Batch, **options: Any) -> ContinualCallback:
        """For a training set of tasks in turn, and held-out rows of all tasks with a column `task`."""
        tasks, columns = held_out["task"], {name: column for name, column in held_out.items() if name != "task"}
        batches = [{name: column[tasks == i] for name, column in columns.items()} for i in range(len(train.steps))]
        return cls(train.steps, batches, rows=train.rows_of, **options)

    # The run ----------------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self._trainer()
        handler: Any = trainer.callback_handler
        # Behind all others: a task has ended once every callback has seen its last step.
        handler.callbacks = [*(one for one in handler.callbacks if one is not self), self]
        if state.max_steps != self.ends[-1]:
            raise ValueError(
                f"steps: the tasks have {self.ends[-1]} steps together, but the run has {state.max_steps}; set "
                "num_train_epochs=1 and a batch size as in TasksInTurn, or give the steps of each task"
            )
        self.accuracy[:] = np.nan
        self.looks: list[tuple[int, float]] = []
        self.table = Table()
        folder = resumed_from(trainer) if state.global_step else None
        if folder is not None and (folder / STATE_FILE).is_file():
            saved = json.loads((folder / STATE_FILE).read_text())
            self.accuracy[:] = np.array(saved["accuracy"], dtype=float)
            self.looks = [(step, value) for step, value in saved["looks"]]
            if (folder / TABLE_FILE).is_file():
                self.table = read_table(folder / TABLE_FILE).up_to(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        task = int(np.searchsorted(self.ends, step))
        within = step - ([0, *self.ends][task])
        trainer = self._trainer()
        if within % self.every == 0:
            self.looks.append((within, self._accuracy(trainer, task)))
        if step == self.ends[task]:
            self._end(trainer, task, args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self._trainer()
        folder = run_folder(trainer) / f"checkpoint-{state.global_step}"
        if args.should_save and folder.is_dir():
            known = {"accuracy": [[None if a != a else a for a in row] for row in self.accuracy.tolist()], "looks": self.looks}
            write_text(folder / STATE_FILE, json.dumps(known) + "\n")
            if self._geometry(trainer) is None:
                self.table.write(folder / TABLE_FILE)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self._trainer()
        if args.should_save and self._geometry(trainer) is None:
            self.table.write(run_folder(trainer) / TABLE_FILE)

    # One task ---------------------------------------------------------------------------------------------------------

    def _end(self, trainer: Trainer, task: int, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        for earlier in range(task + 1):
            self.accuracy[task, earlier] = self._accuracy(trainer, earlier)
        so_far = np.nan_to_num(self.accuracy[: task + 1, : task + 1])
        logs = {f"{PREFIX}/current": float(np.diag(so_far).mean())}
        if task:
            logs = {f"{PREFIX}/{name}": value for name, value in retention.summary(so_far).items()}
        learned = retention.steps_to([step for step, _ in self.looks], [value for _, value in self.looks], self.level)
        self.looks = []
        readings = [Reading("task_accuracy", float(a), index=j) for j, a in enumerate(self.accuracy[task, : task + 1])]
        if learned is not None:
            logs[f"{PREFIX}/{self.learned}"] = float(learned)
            readings.append(Reading(self.learned, float(learned)))
        readings += self._geometry_readings(trainer, task)
        geometry = self._geometry(trainer)
        (self.table if geometry is None else geometry.table).add(state.global_step, state.epoch, readings)
        asked = trainer.control.should_log
        Trainer.log(trainer, logs)
        trainer.control.should_log = asked  # logging clears it, but the step's own log is still to come
        rows = None if self.rows is None else {name: column.to(args.device) for name, column in self.rows(task).items()}
        for callback in list(trainer.callback_handler.callbacks):
            listen = getattr(callback, "on_task_end", None)
            if listen is not None:
                listen(args, state, control, task=task, rows=rows, model=trainer.model)

    @torch.no_grad()
    def _accuracy(self, trainer: Trainer, task: int) -> float:
        model: Any = trainer.model
        batch = self.held_out[task]
        right = total = 0
        with preserve_random_state(), evaluating(model):
            for start in range(0, len(batch["labels"]), self.batch_size):
                part = {name: column[start : start + self.batch_size].to(trainer.args.device) for name, column in batch.items()}
                inputs = {name: column for name, column in part.items() if name != "labels"}
                hits, counted = hits_of(model(**inputs).logits, part["labels"])
                right, total = right + hits, total + counted
        return right / total

    @torch.no_grad()
    def _geometry_readings(self, trainer: Trainer, task: int) -> list[Reading]:
        model: Any = trainer.model
        seen: dict[str, Tensor] = {}

        def keep(site: Site, h: Tensor) -> Tensor:
            seen[site.name] = h.detach().movedim(site.dim, -1).flatten(0, -2).float()
            return h

        hook_sites(model, sites_of(trainer), keep, HOOK)
        try:
            self._accuracy(trainer, task)
        finally:
            unhook(model, HOOK)
        relu = hasattr(model, "hidden") and hasattr(model, "classifier")  # this package's MLPs
        readings = []
        for site, h in seen.items():
            readings.append(Reading("radius_mean", radius(h).mean().item(), site, samples=len(h)))
            readings.append(Reading("effective_rank", effective_rank(singular_values(h)).item(), site, samples=len(h)))
            if relu:
                readings.append(Reading("dead_units", dead_share(h.relu()).item(), site, samples=len(h)))
        for name, p in model.named_parameters():
            if p.ndim == 2:
                readings.append(Reading("weight_norm", p.float().norm().item(), name))
        return readings

    def _geometry(self, trainer: Trainer) -> GeometryCallback | None:
        return next((one for one in trainer.callback_handler.callbacks if isinstance(one, GeometryCallback)), None)

    def _trainer(self) -> Trainer:
        trainer = calling_trainer()
        if trainer is None:
            raise RuntimeError("ContinualCallback must be called by a transformers.Trainer")
        return trainer


def hits_of(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """How many answers are right, and how many there are.

    Args:
        logits: `(rows, classes)`, or `(rows, tokens, words)` of a language model, which answers for the next token.
        labels: `(rows,)`, or `(rows, tokens)`, where -100 does not count.

    >>> hits_of(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    (1, 2)
    """
    if logits.ndim == 3:
        logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels != -100
    return int(((logits.argmax(-1) == labels) & counted).sum()), int(counted.sum())
