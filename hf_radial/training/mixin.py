"""`RadialTrainer`: a `Trainer` plus one argument. The penalty's normalisation, logging and resuming inside a `Trainer`.

The definition. With `V` the vectors of the whole effective batch (all micro-batches of an optimizer step, on all ranks) that
are not padding, the loss that is minimised is

    L = L_task + radial_lambda * sum over sites of  1/|V| * sum over h in V of (||h|| - R)^2 / d

and its gradient does not depend on how the batch was split. `Trainer` scales its loss in several ways (by accumulation steps,
by tokens, by ranks), depending on the model, its version and its options. The penalty stays out of all that: it is added to
the loss at the last moment, in `accelerator.backward`, with a weight that is right for the sum over micro-batches and the mean
over ranks that follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from hf_radial.hub.pushing import PushingMixin
from hf_radial.penalty.config import RadialConfig, resolve_config
from hf_radial.penalty.radial_penalty import RadialPenalty
from hf_radial.penalty.vectors import count_vectors
from hf_radial.runs.record import write_run_record
from hf_radial.safe_files import write_text
from hf_radial.sites.find import ForwardFailedError
from hf_radial.training.checkpoints import CheckpointMixin
from hf_radial.training.fast.epoch import LeanEpochMixin
from hf_radial.training.fast.resident import ResidentMixin
from hf_radial.training.rows import batch_of_rows
from hf_radial.training.window import _Window

logger = logging.get_logger(__name__)

TARGETS_FILE = "radial_targets.json"
CALIBRATION_ROWS = 64
TRACED_ROWS = 2


class RadialMixin(LeanEpochMixin, ResidentMixin, PushingMixin, CheckpointMixin):
    """The penalty for any class derived from `Trainer`: `class RadialSFTTrainer(RadialMixin, SFTTrainer): ...`.

    Args:
        radial_lambda: weight of the penalty; 0 trains exactly as the plain trainer does, and logs the radii. What would stop a
            penalty (a model without known sites, reentrant checkpointing, ...) then only stops the measuring, with a warning.
        radial_radius: target radius: a number, `"sqrt_d"` (the paper's) or `"initial"`, each site's mean radius on the first
            rows of the training set before the first step.
        radial_side: `"both"` (the paper's) or `"above"`.
        radial_warmup_steps: optimizer steps over which `radial_lambda` grows linearly from 0.
        radial_sites: module name patterns to penalise instead of what is found, or to leave out; see
            `hf_radial.sites.find_sites`.
        radial_where: `"increment"` (the paper's) or `"pre_norm"`, for models that put a norm behind each sublayer; see there.
        radial_schedule: `"constant"`; `"cosine"`, from the full `radial_lambda` at the end of the warm-up to 0 in the last
            optimizer step; or a function of the optimizer step, counted from 0, that returns a factor of `radial_lambda`.

    Options that are left out are taken from `args` if it is a `RadialArguments`. Everything else is the base class's.

    Logged with every training `loss` (what is minimised), as means over the logging window and over ranks: `task_loss`,
    `radial_penalty` (sum over sites, without `radial_lambda`), `radial_lambda`, and for each site `radius/<site>` beside
    `radius_target/<site>`. A step whose loss is NaN shows in them, also where `logging_nan_inf_filter` hides it from `loss`.

    Raises:
        ValueError: an option is out of range, no site is found, or the set-up would make the penalty wrong (reentrant gradient
            checkpointing, `torch.nn.DataParallel`).
        RuntimeError: in the first step, if the trainer's own `training_step` does not use `accelerator.backward`.
    """

    allows_fast_epoch = True  # what this class overrides, `lean_step` does as well

    def __init__(
        self,
        *args: Any,
        radial_lambda: float | None = None,
        radial_radius: float | str | None = None,
        radial_side: str | None = None,
        radial_warmup_steps: int | None = None,
        radial_sites: Sequence[str] | None = None,
        radial_schedule: str | Callable[[int], float] | None = None,
        radial_where: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        options = {
            "radial_lambda": radial_lambda,
            "radial_radius": radial_radius,
            "radial_side": radial_side,
            "radial_warmup_steps": radial_warmup_steps,
            "radial_sites": radial_sites,
            "radial_schedule": radial_schedule,
            "radial_where": radial_where,
        }
        self.init_radial(options)
        for intervention in getattr(self.args, "made_interventions", list)():
            intervention.attach(self)

    def init_radial(self, options: dict[str, Any], owner: TrainerCallback | None = None) -> None:
        """Set the penalty up on a trainer whose own `__init__` is through; `owner` is the callback that brought it, if any."""
        self._radial_options = options
        self._radial_owner: Any = owner
        self._radial_window: _Window | None = None
        self.run_facts: dict[str, Any] = getattr(self, "run_facts", {})
        self._set_up(resolve_config(self.args, **options))

    def _set_up(self, config: RadialConfig) -> None:
        self.radial_config, self._radial_model = config, self.model
        self.radial_penalty: RadialPenalty | None = None
        with self._optional_without_lambda():
            self._check_arguments()
            self.radial_penalty = self._make_penalty()

    @contextmanager
    def _optional_without_lambda(self) -> Iterator[None]:
        """What cannot be measured is an error, unless nothing depends on it: then the radii are left out."""
        try:
            yield
        except ValueError as error:
            # Sites that the user names are to be found in any case.
            if self.radial_config.radial_lambda > 0 or self.radial_config.radial_sites is not None:
                raise
            logger.warning("radial_lambda=0: training goes on as without it, but no radii are measured: %s", error)
            self.end_radial()
            self.radial_penalty = None

    def _check_arguments(self) -> None:
        for name in ("activation_checkpointing", "gradient_checkpointing"):  # its name from transformers 5.2x on, and before
            kwargs = getattr(self.args, f"{name}_kwargs", None)
            if getattr(self.args, name, None) and isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
                raise ValueError(
                    f"{name}_kwargs={{'use_reentrant': True}} would train without the penalty's gradient; "
                    "use {'use_reentrant': False}"
                )
        if self.args.n_gpu > 1:
            raise ValueError(
                f"torch.nn.DataParallel over {self.args.n_gpu} GPUs is not supported: start one process per GPU with "
                "`accelerate launch` or `torchrun`, or show this process one GPU with CUDA_VISIBLE_DEVICES=0"
            )

    def _make_penalty(self) -> RadialPenalty:
        config = self.radial_config
        if self.model is None:
            raise ValueError("the trainer has no model")
        make = partial(
            RadialPenalty,
            self.model,
            config.radial_lambda,
            radius=config.radial_radius,
            side=config.radial_side,
            sites=config.radial_sites,
            where=config.radial_where,
        )
        try:
            inputs = self._first_rows(TRACED_ROWS)
        except Exception as error:  # training will say so better
            logger.debug("no batch of the first rows: %s", error)
            inputs = None
        try:
            penalty = make(inputs=inputs)
        except ForwardFailedError:
            if inputs is None:
                raise
            penalty = make()  # some trainers make the model's arguments out of a batch that is none (preference pairs, say)
        penalty.strict = config.radial_lambda > 0
        penalty.paused = True  # but within a training step
        return penalty

    def _first_rows(self, count: int) -> dict[str, Any] | None:
        """The first rows of the training set as a batch, the same on every rank; `None` where they cannot be had by index.

        Nothing is drawn: random states, and that of the collator, are left as they are.
        """
        dataset: Any = self.train_dataset
        rows = range(min(count, len(dataset))) if hasattr(dataset, "__len__") else ()
        return batch_of_rows(self, dataset, rows)

    # One run ----------------------------------------------------------------------------------------------------------

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: TrainingArguments | None = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        if self._radial_owner is not None:
            # An earlier run failed where the callback was not told. If it is still there, it begins this run as any other.
            self._radial_owner.release()
            return self._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
        try:
            self.begin_radial(resume_from_checkpoint)
            output = super()._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
            self.finish_pushing()
            return output
        finally:
            self.end_radial()

    # A callback comes in when the loop above is past: these are the parts of it that are still to be called.

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        with self._owner_told():
            return super()._run_epoch(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._owner_told():
            return super()._evaluate(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        with self._owner_told():
            return super()._finalize_training(*args, **kwargs)

    @contextmanager
    def _owner_told(self) -> Iterator[None]:
        """No callback is told of an exception; the one that brought the penalty is told here."""
        try:
            yield
        except BaseException:
            if self._radial_owner is not None:
                self._radial_owner.release()
            raise

    def begin_radial(self, resume_from_checkpoint: str | None, targets: Mapping[str, float] | None = None) -> None:
        """Attach the penalty to the model, set its targets and write the run's record.

        Args:
            resume_from_checkpoint: the folder that the run goes on from, if it does and knows its folder.
            targets: for `radial_radius="initial"`, the targets of the run that goes on.
        """
        config = resolve_config(self.args, **self._radial_options)
        # A hyperparameter search sets `args` anew for every trial, and `model_init` makes a new model.
        if config != self.radial_config or self._radial_model is not self.model:
            self._set_up(config)
        if self.radial_penalty is not None:
            with self._optional_without_lambda():
                if targets is not None:
                    self.radial_penalty.targets.update(targets)
                elif self.radial_config.radial_radius == "initial":
                    self._set_initial_targets(self.radial_penalty, resume_from_checkpoint)
                self.radial_penalty.attach()
                self._radial_window = _Window(self.radial_penalty, self.args.device)
                self._radial_window.compiled = self._is_compiled(self.radial_penalty.model)
                if self._radial_window.compiled:
                    torch.compiler.reset()  # what was compiled for the model without hooks would be used again, hooks or not
                logger.info("%r\n%s", self.radial_penalty, self.radial_penalty.table())
        if self.args.should_save:
            write_run_record(self)
        self.begin_pushing()

    def end_radial(self) -> None:
        """Leave the model as it was, and nothing of the run to be logged later."""
        if self.radial_penalty is not None:
            self.radial_penalty.detach()
        self._radial_window = None

    def _is_compiled(self, model: nn.Module) -> bool:
        if self.accelerator.state.dynamo_plugin.backend.value != "NO":  # `torch_compile=True`, or the launcher's
            return True
        modules = list(model.modules())
        return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules)

    def _set_initial_targets(self, penalty: RadialPenalty, resume_from_checkpoint: str | None) -> None:
        if resume_from_checkpoint is not None:
            file = Path(resume_from_checkpoint) / TARGETS_FILE
            if not file.is_file():
                raise ValueError(
                    f"radial_radius='initial': {file} is missing, so the radii that the run started from are unknown; "
                    "resume a checkpoint of a run with radial_radius='initial', or give the radius as a number"
                )
            penalty.targets.update(json.loads(file.read_text()))
            return
        batch = self._first_rows(CALIBRATION_ROWS)
        if batch is None:
            raise ValueError("radial_radius='initial' needs a train_dataset with rows to index; give the radius as a number")
        device = next(penalty.model.parameters()).device
        penalty.calibrate(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        window = self._radial_window
        if self.args.should_save and window is not None and self.radial_config.radial_radius == "initial":
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            # Before the base class writes `trainer_state.json`, with which a checkpoint is complete.
            write_text(folder / TARGETS_FILE, json.dumps(window.radial_penalty.targets, indent=2))
        super()._save_checkpoint(model, trial)

    # One step ---------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As the base class; then set `lambda` for the step and count its vectors, over all micro-batches and ranks."""
        batch_samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        window = self._radial_window
        if batch_samples and window is not None:
            window.whole = len(batch_samples) == 1 and self.accelerator.num_processes == 1
            if not window.whole:
                count = sum(self._count_vectors(batch, window) for batch in batch_samples)
                self._vectors_in_step = self.accelerator.reduce(count, reduction="sum")
            window.radial_penalty.radial_lambda = self.radial_config.lambda_at(self.state.global_step, self.state.max_steps)
            window.new_step()
            window.radial_lambda += window.radial_penalty.radial_lambda
        return batch_samples, num_items_in_batch

    def _count_vectors(self, batch: Any, window: _Window) -> Tensor:
        """How many vectors a batch has, by the mask that tells the padding; shape `(masks,)`."""
        main_input = getattr(self.model, "main_input_name", "input_ids")
        try:
            counts = [count_vectors(batch, mask, main_input) for mask in window.masks]
        except (TypeError, ValueError):
            if self.radial_config.radial_lambda > 0:
                raise
            # Only the logged penalty depends on it: micro-batches that cannot be weighed count alike.
            counts = [torch.ones(()) for _ in window.masks]
        return torch.stack([count.to(self.args.device, torch.float32) for count in counts])

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As the base class, with the penalty of this micro-batch added in the backward pass and in the loss returned."""
        window = self._radial_window
        if window is None:
            return super().training_step(model, inputs, *args, **kwargs)
        penalty, accelerator = window.radial_penalty, self.accelerator
        penalty.reset()
        counted: Tensor | None = None
        share: Tensor | None = None
        if not window.whole:  # then its part of the effective batch: those of all micro-batches and ranks add up to one
            counted = self._count_vectors(inputs, window)[window.mask_of_site]
            share = counted / self._vectors_in_step.clamp(min=1)[window.mask_of_site]
        labels = inputs.get("labels")  # label smoothing takes them away from the model
        weighted: Tensor | None = None

        def backward(loss: Tensor, **backward_kwargs: Any) -> None:
            nonlocal weighted
            sums = penalty.take()
            means = sums.mean_penalty()
            if share is not None:
                means = share.to(means.device) * means
            window.add(means.detach(), sums.radius, sums.count, counted)
            # Gradients are averaged over ranks: undo that, the parts are to be summed.
            term = (penalty.radial_lambda * accelerator.num_processes * means.sum()).to(loss.device)
            weighted = term.detach()
            # Not even zero is added: without the penalty the graph is the plain trainer's, bit for bit.
            plain_backward(loss + term if penalty.radial_lambda > 0 else loss, **backward_kwargs)

        plain_backward, replaced = accelerator.backward, "backward" in vars(accelerator)
        accelerator.backward = backward
        penalty.paused, penalty.labels = False, labels
        try:
            with _compiled_checkpoints_may_collect() if window.compiled else nullcontext():
                task_loss = super().training_step(model, inputs, *args, **kwargs)
        finally:
            if replaced:
                accelerator.backward = plain_backward  # somebody else's
            else:
                del accelerator.backward  # the class's own method again
            penalty.paused, penalty.labels = True, None
            penalty.reset()
        if weighted is None and penalty.strict:
            raise RuntimeError(
                f"{type(self).__name__}.training_step did not call self.accelerator.backward, so the penalty never reached the "
                "gradient; use accelerator.backward(loss) in it, or RadialPenalty in a loop of your own"
            )
        window.task_loss += task_loss
        return task_loss + weighted if weighted is not None and penalty.radial_lambda > 0 else task_loss

    def lean_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        """As `training_step`, where one batch is the whole step: then its vectors are all there are, and need no count."""
        window = self._radial_window
        if window is None:
            return super().lean_step(model, inputs, num_items_in_batch)
        penalty = window.radial_penalty
        penalty.radial_lambda = self.radial_config.lambda_at(self.state.global_step, self.state.max_steps)
        window.whole = True
        window.steps += 1
        window.radial_lambda += penalty.radial_lambda
        penalty.paused, penalty.labels = False, inputs.get("labels")
        try:
            with _compiled_checkpoints_may_collect() if window.compiled else nullcontext():
                loss = self._lean_loss(model, inputs, num_items_in_batch)
                sums = penalty.take()
                means = sums.mean_penalty()
                task_loss = loss.detach()
                if penalty.radial_lambda > 0:
                    loss = loss + (penalty.radial_lambda * means.sum()).to(loss.device)
                loss.backward()
        finally:
            penalty.paused, penalty.labels = True, None
            penalty.reset()
        window.task_loss += task_loss
        window.add(means.detach(), sums.radius, sums.count)
        return loss.detach()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the base class; a log of the training `loss` gains the task loss, the penalty and the radii."""
        if "loss" in logs and self._radial_window is not None and self._radial_window.steps:
            rest = {name: logs.pop(name) for name in list(logs) if name != "loss"}
            logs.update(self._radial_window.drain(self.accelerator))
            logs.update(rest)
        super().log(logs, *args, **kwargs)


def _compiled_checkpoints_may_collect() -> AbstractContextManager[Any]:
    """Let `torch.compile` take a checkpointed block that has a site as one graph.

    It asks whether what a block does besides computing may be left out of the replay. Ours must be: a replay is not counted.
    Otherwise the block would not be compiled at all, as it is not where torch does not know the question.
    """
    import torch._dynamo.config as settings

    name = "skip_fwd_side_effects_in_bwd_under_checkpoint"
    return settings.patch({name: True}) if hasattr(settings, name) else nullcontext()
