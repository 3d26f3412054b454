"""`train_together` trains many runs of one small model, one step of all of them at a time.

The runs of a sweep over seeds, `radial_lambda`, weight decay and learning rate have the same shape. A model as small as the
modular MLP spends most of its step outside of its matrix products. Here the runs share their steps: their parameters are
stacked (`hf_radial.sweep.stacked_mlp`), and one optimizer updates them all. Each run stays the same as alone:

- the same first weights, order of rows (as `Trainer` and `accelerate` shuffle by seed and epoch), short last batch, AdamW (as
  `Trainer` sets it up, without decay of biases), schedule of the learning rate, clipping, penalty, its warm-up and schedule;
- the same log, `run.json` and callbacks for logs and evaluations, and therefore the same end where a callback stops it.

This holds up to the rounding of float32, since sums have another order. Over thousands of steps, rounding can move the onset of
a run, just as another number of threads can. A run that ends, or whose loss becomes NaN, does not affect the others.

Not here: the choice of runs and their files (recipes/sweep.py), checkpoints (a sweep restarts unfinished runs), several
processes, mixed precision, gradient accumulation. An option that is not supported raises an error that names it before the
first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import Trainer, TrainerControl, TrainerState, get_scheduler
from transformers.trainer_callback import DefaultFlowCallback
from transformers.trainer_utils import EvalPrediction, SchedulerType

from hf_radial.sweep.members import SweepMember, check_members
from hf_radial.sweep.stacked_mlp import EMBEDDING, StackedMLP, side_bounds


def train_together(members: Sequence[SweepMember], on_end: Callable[[SweepMember], None] | None = None) -> None:
    """Train all members to their end, one step of all of them at a time.

        members = [SweepMember(model=..., args=..., train_dataset=rows, eval_dataset={...}, ...) for ... in ...]
        train_together(members, on_end=save)

    Args:
        members: trainers of `ModularMLPForSequenceClassification` of one shape, with `TensorRows` to train on and `TensorRows`
            by name to evaluate on: the same ones, or draws of one size. Their arguments may differ in seed, data_seed,
            learning_rate, weight_decay, warmup_steps, adam_beta2, max_grad_norm, in where they write, and in radial_lambda,
            radial_radius, radial_side and radial_sites. Members may also differ in the attributes that `SweepMember` lists.
        on_end: called with each member when it ends: its model has its last weights, its state has its log.

    Raises:
        ValueError, TypeError: an option is not supported, or members differ in other options. Nothing is written then.
    """
    check_members(members)
    _Sweep(members, on_end or (lambda member: None)).train()


class _Sweep:
    """The members that are still being trained, and their tensors."""

    def __init__(self, members: Sequence[SweepMember], on_end: Callable[[SweepMember], None]) -> None:
        self.members, self.on_end = list(members), on_end
        first: Any = self.members[0]
        self.args: Any = first.args
        self.device, self.dtype = self.args.device, first.model.dtype
        self.columns = self._columns([member.train_dataset for member in members])
        self.held_out = {
            name: self._columns([splits[name] for splits in (cast(Any, member.eval_dataset) for member in members)])
            for name in first.eval_dataset
        }
        self.stack = StackedMLP(
            [member.model for member in members],  # type: ignore[misc]
            self.device,
            [member.logit_temperature for member in members],
        )
        self.sites = self.stack.sites
        self.decayed = set(first.get_decay_parameter_names(first.model))
        self.moments = {
            name: [(torch.zeros_like(piece), torch.zeros_like(piece)) for piece in pieces]
            for name, pieces in self.stack.parameters.items()
        }

        self.rows, self.batch = len(first.train_dataset), self.args.train_batch_size
        self.steps_per_epoch = math.ceil(self.rows / self.batch)
        epochs = math.ceil(self.args.num_train_epochs * self.steps_per_epoch)
        self.state = TrainerState(max_steps=self.args.max_steps if self.args.max_steps > 0 else epochs)
        self.state.compute_steps(self.args, self.state.max_steps)

        self.unit = replace(first.radial_config, radial_lambda=1.0)  # the factor from warm-up and schedule
        self.lambdas = torch.tensor(
            [member.radial_config.radial_lambda for member in members], dtype=self.dtype, device=self.device
        )
        # The schedule of the learning rate as a factor, one for each length of the warm-up.
        self.schedulers = {
            steps: get_scheduler(
                self.args.lr_scheduler_type,
                torch.optim.SGD([torch.zeros(1)], lr=1.0),
                num_warmup_steps=steps,
                num_training_steps=self.state.max_steps,
            )
            for steps in {self._warmup_steps(member) for member in members}
        }
        self.rates = dict.fromkeys(self.schedulers, 1.0)
        self.constant_rate = self.args.lr_scheduler_type == SchedulerType.CONSTANT

        self.seen = 0  # rows, over all steps
        self.totals = [0.0] * len(self.members)  # sums of what was logged as loss
        self.norms: Tensor | None = None
        self._make_optimizer()
        self._clear()

    def _columns(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Columns of shape `(rows, ...)` if they are the same for all members, else `(members, rows, ...)`."""
        names = ("input_ids", "labels")
        if all(own is rows[0] for own in rows):
            return {name: rows[0].columns[name].to(self.device) for name in names}
        return {name: torch.stack([own.columns[name] for own in rows]).to(self.device) for name in names}

    def _warmup_steps(self, member: SweepMember) -> int:
        return int(member.args.get_warmup_steps(self.state.max_steps))

    def _clear(self) -> None:
        """Begin a new window between two logs."""
        sites, members = len(self.sites), len(self.members)
        self.window_steps = self.window_rows = 0
        self.window_factor = 0.0
        self.loss, self.task_loss = torch.zeros(2, members, dtype=self.dtype, device=self.device)
        self.penalty, self.radius = torch.zeros(2, sites, members, dtype=self.dtype, device=self.device)

    def _make_optimizer(self) -> None:
        """AdamW as `Trainer` makes it; neighbours of equal learning rate and weight decay form one group.

        The embedding has a group of its own where its learning rate or weight decay differs from that of the rest. Parameters,
        gradients and both moments are views of the stacked tensors.
        """
        step_at = self.device if Trainer.get_optimizer_cls_and_kwargs(self.args)[1].get("fused") else "cpu"
        groups: list[dict[str, Any]] = []
        state: dict[Tensor, dict[str, Tensor]] = {}
        start = 0
        for (rate, decay, beta2, warmup, embedding_rate, embedding_decay), run in groupby(self.members, self._steps_like):
            block = slice(start, start := start + len(list(run)))
            decays = {name: decay if name in self.decayed else 0.0 for name in self.stack.parameters}
            rates = dict.fromkeys(self.stack.parameters, rate)
            rates[EMBEDDING] *= embedding_rate
            if embedding_decay is not None:
                decays[EMBEDDING] = embedding_decay
            for own_rate, own_decay in dict.fromkeys(zip(rates.values(), decays.values(), strict=True)):
                params = []
                for name, pieces in self.stack.parameters.items():
                    if (rates[name], decays[name]) != (own_rate, own_decay):
                        continue
                    for piece, gradient, moments in zip(pieces, self.stack.gradients[name], self.moments[name], strict=True):
                        params.append(piece[block])
                        params[-1].grad = gradient[block]
                        step = torch.tensor(float(self.state.global_step), device=step_at)
                        state[params[-1]] = {"step": step, "exp_avg": moments[0][block], "exp_avg_sq": moments[1][block]}
                groups.append(
                    {
                        "params": params,
                        "lr": own_rate,
                        "own_lr": own_rate,
                        "warmup_steps": warmup,
                        "betas": (self.args.adam_beta1, beta2),
                        "weight_decay": own_decay,
                    }
                )
        limits = [member.args.max_grad_norm or 0.0 for member in self.members]
        self.clipped = max(limits) > 0
        self.limits = torch.tensor([limit if limit > 0 else math.inf for limit in limits], dtype=self.dtype, device=self.device)
        kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
        self.optimizer = kind(groups, **options)
        self.optimizer.state.update(state)

    def _steps_like(self, member: SweepMember) -> tuple[float, float, float, int, float, float | None]:
        """Members for which this is equal are stepped as one group."""
        args, warmup = member.args, self._warmup_steps(member)
        own = (member.embedding_rate, member.embedding_weight_decay)
        return (args.learning_rate, args.weight_decay, args.adam_beta2, warmup, *own)

    # Training ---------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        for member in self.members:
            for site in member.radial_penalty.sites if member.radial_penalty is not None else ():
                if site.name not in self.sites:
                    raise ValueError(f"radial_sites: {site.name!r} is no hidden layer of these models")
        self.host_targets = [member.begin_run(self.state.max_steps, len(self.members)) for member in self.members]
        self._place_penalties()
        self.bar = tqdm(total=self.state.max_steps, disable=self.args.disable_tqdm, unit="step", dynamic_ncols=True)
        flow = DefaultFlowCallback()
        with self.bar:
            if self.args.eval_on_start:
                self._evaluate()
                self._end_some()
            epoch = 0
            while self.members and self.state.global_step < self.state.max_steps:
                self._shuffle(epoch)
                for step in range(self.steps_per_epoch):
                    self._step(slice(step * self.batch, (step + 1) * self.batch))
                    self.state.epoch = epoch + (step + 1) / self.steps_per_epoch
                    self._watch(flow.on_step_end(self.args, self.state, TrainerControl()))
                    if not self.members or self.state.global_step == self.state.max_steps:
                        break
                else:
                    self._watch(flow.on_epoch_end(self.args, self.state, TrainerControl()))
                epoch += 1
            self._end_some(all_of_them=True)

    def _place_penalties(self) -> None:
        """Targets and weights of the penalty at each site of each member. A site that is not the member's has weight 0."""
        columns = [[targets.get(site, 0.0) for site in self.sites] for targets in self.host_targets]
        self.targets = torch.tensor(columns, dtype=self.dtype, device=self.device).T
        own = torch.tensor([[site in targets for site in self.sites] for targets in self.host_targets], device=self.device).T
        self.weights = self.lambdas * own
        self.penalised = bool(self.lambdas.any())
        self.bounds = side_bounds([member.radial_config.radial_side for member in self.members], self.targets)

    def _shuffle(self, epoch: int) -> None:
        """Each member's rows in its order of this epoch: that of accelerate's `SeedableRandomSampler`."""
        orders = []
        for member in self.members:
            seed = member.args.seed if member.args.data_seed is None else member.args.data_seed
            orders.append(torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed + epoch)))
        order = torch.stack(orders).to(self.device)
        if self.columns["labels"].ndim == 1:
            self.ids, self.labels = self.columns["input_ids"][order], self.columns["labels"][order]
        else:
            each = torch.arange(len(self.members), device=self.device).unsqueeze(1)
            self.ids, self.labels = self.columns["input_ids"][each, order], self.columns["labels"][each, order]

    def _step(self, rows: slice) -> None:
        ids, labels = self.ids[:, rows], self.labels[:, rows]
        factor = self.unit.lambda_at(self.state.global_step, self.state.max_steps)
        weights = self.weights if factor == 1 else self.weights * factor
        values = self.stack.step(ids, labels, self.targets, self.bounds, weights if self.penalised else None)
        if self.clipped:
            self._clip()
        if not self.constant_rate:
            self.rates = {steps: scheduler.get_last_lr()[0] for steps, scheduler in self.schedulers.items()}
            for group in self.optimizer.param_groups:
                group["lr"] = group["own_lr"] * self.rates[group["warmup_steps"]]
        self.optimizer.step()
        if not self.constant_rate:
            for scheduler in self.schedulers.values():
                scheduler.optimizer.step()  # an empty step, or the scheduler would warn that no step came first
                scheduler.step()
        self.task_loss += values.task_loss
        self.loss += values.task_loss + (weights * values.penalty).sum(0)
        self.penalty += values.penalty
        self.radius += values.radius * labels.shape[1]
        self.window_steps += 1
        self.window_rows += labels.shape[1]
        self.window_factor += factor
        self.seen += labels.shape[1]
        self.state.global_step += 1
        self.bar.update()

    def _clip(self) -> None:
        """Scale each member's gradient to its `max_grad_norm` where it is longer, as `Trainer` does."""
        self.norms = self._gradient_norms()
        factors = (self.limits / (self.norms + 1e-6)).clamp(max=1.0)
        for gradients in self.stack.gradients.values():
            for gradient in gradients:
                gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    def _gradient_norms(self) -> Tensor:
        squares = [g.flatten(1).square().sum(1) for gradients in self.stack.gradients.values() for g in gradients]
        return torch.stack(squares).sum(0).sqrt()

    # Logs and evaluations --------------------------------------------------------------------------------------------------

    def _watch(self, control: TrainerControl) -> None:
        """Log and evaluate when due, and end members whose callbacks ask for it."""
        if control.should_log and self.window_steps:
            self._log()
        if control.should_evaluate and self.members:
            self._evaluate()
        if control.should_log or control.should_evaluate:
            self._end_some()

    def _log(self) -> None:
        """The log of a window; it copies to the host once."""
        steps, sites = self.window_steps, len(self.sites)
        norms = self._gradient_norms() if self.norms is None else self.norms
        rows = [self.loss / steps, self.task_loss / steps, norms, *self.penalty / steps, *self.radius / self.window_rows]
        for i, (member, values) in enumerate(zip(self.members, torch.stack(rows).T.tolist(), strict=True)):
            loss, task_loss, norm = values[:3]
            targets = self.host_targets[i]
            penalties, radii = (
                dict(zip(self.sites, part, strict=True)) for part in (values[3 : 3 + sites], values[3 + sites :])
            )
            self.totals[i] += loss * steps
            logs = {
                "loss": loss,
                "task_loss": task_loss,
                "radial_penalty": sum(penalties[site] for site in targets),
                "radial_lambda": member.radial_config.radial_lambda * self.window_factor / steps,
            }
            for site, target in targets.items():
                logs |= {f"radius/{site}": radii[site], f"radius_target/{site}": target}
            logs |= {"grad_norm": norm, "learning_rate": self._rate(member)}
            member.at_step(self.state.global_step, self.state.epoch)
            member.log(logs)
            if not math.isfinite(loss):
                member.failure = f"the loss was {loss} in the steps up to {self.state.global_step}"
        self._clear()

    def _rate(self, member: SweepMember) -> float:
        return float(member.args.learning_rate * self.rates[self._warmup_steps(member)])

    def _evaluate(self) -> None:
        """Evaluate every member on every split, as `Trainer.evaluate` does."""
        for split, columns in self.held_out.items():
            losses, predictions = [], []
            rows, size = columns["labels"].shape[-1], self.args.eval_batch_size
            for ids, labels in zip(columns["input_ids"].split(size, -2), columns["labels"].split(size, -1), strict=True):
                logits = self.stack.logits(ids)
                every = labels.expand(len(self.members), -1)
                losses.append(F.cross_entropy(logits.flatten(0, 1), every.flatten(), reduction="none").view_as(every).sum(1))
                choose: Any = self.members[0].preprocess_logits_for_metrics or (lambda logits, labels: logits)
                predictions.append(torch.stack([choose(own, wanted) for own, wanted in zip(logits, every, strict=True)]))
            means = (torch.stack(losses).sum(0) / rows).tolist()
            every_answer = columns["labels"].expand(len(self.members), -1).cpu().numpy()
            predicted_by_all = torch.cat(predictions, 1).cpu().numpy()
            for member, mean, predicted, answers in zip(self.members, means, predicted_by_all, every_answer, strict=True):
                metrics = {"loss": mean}
                if member.compute_metrics is not None:
                    metrics |= member.compute_metrics(EvalPrediction(predictions=predicted, label_ids=answers))
                member.at_step(self.state.global_step, self.state.epoch)
                member.note_evaluation({f"eval_{split}_{name}": value for name, value in metrics.items()})

    # Members that end -------------------------------------------------------------------------------------------------

    def _end_some(self, all_of_them: bool = False) -> None:
        """End the members that failed or that a callback stops, and continue with the others."""
        going_on = []
        losses: list[float] = []
        for i, member in enumerate(self.members):
            if not (all_of_them or member.failure is not None or member.control.should_training_stop):
                going_on.append(i)
                continue
            losses = losses or self.loss.tolist()  # of the steps since the last log
            weights = self.stack.state_dict(i)
            if member.failure is None and not all(bool(value.isfinite().all()) for value in weights.values()):
                member.failure = f"weights that are no numbers at step {self.state.global_step}"
            steps = max(self.state.global_step, 1)
            member.at_step(self.state.global_step, self.state.epoch)
            member.end_run(weights, (self.totals[i] + losses[i]) / steps, self.seen)
            self.on_end(member)
        if len(going_on) < len(self.members):
            self._keep(going_on)

    def _keep(self, chosen: list[int]) -> None:
        self.members = [self.members[i] for i in chosen]
        if not self.members:
            return
        self.totals = [self.totals[i] for i in chosen]
        self.host_targets = [self.host_targets[i] for i in chosen]
        index = torch.tensor(chosen, device=self.device)
        self.stack.keep(chosen)
        self.moments = {
            name: [(first[index], second[index]) for first, second in pieces] for name, pieces in self.moments.items()
        }
        self.lambdas = self.lambdas[index]
        self._place_penalties()
        self.ids, self.labels = self.ids[index], self.labels[index]
        for columns in (self.columns, *self.held_out.values()):
            if columns["labels"].ndim == 2:  # each member has its own
                columns.update({name: column[index] for name, column in columns.items()})
        self.loss, self.task_loss = self.loss[index], self.task_loss[index]
        self.penalty, self.radius = self.penalty[:, index], self.radius[:, index]
        self.norms = None if self.norms is None else self.norms[index]
        self._make_optimizer()
