"""A run with the penalty: set up, attached when training begins, taken away when it ends, and kept in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from hf_radial.hub.pushing import PushingMixin
from hf_radial.penalty.config import RadialConfig, resolve_config
from hf_radial.penalty.radial_penalty import RadialPenalty
from hf_radial.runs.record import write_run_record
from hf_radial.sites.find import adds_tokens, is_transformers_model
from hf_radial.training import set_up
from hf_radial.training.calibration import calibrate, take_targets, targets_in, write_targets
from hf_radial.training.rows import makes_its_batches
from hf_radial.training.site_counts import SiteCounts
from hf_radial.training.window import Window

logger = logging.get_logger(__name__)


class RunMixin(PushingMixin):
    """What `RadialMixin` does around the steps of a run; the steps are its own."""

    radial_counts_at_sites: bool | None = None
    _resumed_targets: Mapping[str, float] | None = None
    _in_step = False  # while `training_step` runs
    _micro_batches_left = 0  # of those that `get_batch_samples` gave, with the one that runs
    _vectors_in_step: Tensor | None = None  # of all micro-batches and ranks, by mask; None: only the sites can tell
    _labels: Tensor | None = None  # of the batch that runs

    def init_radial(self, options: dict[str, Any], owner: TrainerCallback | None = None) -> None:
        """Set the penalty up on a trainer whose own `__init__` is through; `owner` is the callback that brought it, if any."""
        self._radial_options = options
        self._radial_owner: Any = owner
        self._radial_window: Window | None = None
        self._first_forward: list[torch.utils.hooks.RemovableHandle] = []  # waits for the forward that shows the sites
        self.run_facts: dict[str, Any] = getattr(self, "run_facts", {})
        self._set_up(resolve_config(self.args, **options))

    def _set_up(self, config: RadialConfig) -> None:
        self.radial_config, self._radial_model = config, self.model
        self.radial_penalty: RadialPenalty | None = None
        self._sites_wait = False
        with self._optional_without_lambda():
            set_up.check_arguments(self.args)
            self.radial_penalty = set_up.make_penalty(self, config)
            self._sites_wait = self.radial_penalty is None

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
            self.radial_penalty, self._sites_wait = None, False

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
        set_up.check_interventions(self, getattr(self, "_interventions_given", None))
        config = resolve_config(self.args, **self._radial_options)
        # A hyperparameter search sets `args` anew for every trial, and `model_init` makes a new model.
        if config != self.radial_config or self._radial_model is not self.model:
            self._set_up(config)
        if self.radial_penalty is not None or self._sites_wait:
            with self._optional_without_lambda():
                model: Any = self.model
                set_up.check_trainable(model)
                self._resumed_targets = targets
                if targets is None and config.radial_radius == "initial" and resume_from_checkpoint is not None:
                    self._resumed_targets = targets_in(resume_from_checkpoint)
                if self.radial_penalty is not None:
                    self._attach(self.radial_penalty)
                else:
                    self._first_forward = set_up.on_first_forward(model, self._find_sites_now)
        if self.args.should_save:
            write_run_record(self)
        self.begin_pushing()

    def _attach(self, penalty: RadialPenalty) -> Window:
        if self._resumed_targets is not None:
            take_targets(penalty, self._resumed_targets)
        elif self.radial_config.radial_radius == "initial":
            calibrate(self, penalty, self._note_sites)
        waits = penalty.waits_for_first_forward
        penalty.attach()
        window = Window(penalty, self.args.device)
        window.compiled = set_up.is_compiled(self, penalty.model)
        if window.compiled:
            torch.compiler.reset()  # what was compiled for the model without hooks would be used again, hooks or not
        self._site_counts = SiteCounts([p for p in penalty.model.parameters() if p.requires_grad], window.mask_of_site)
        self._counts_late = makes_its_batches(self) or adds_tokens(penalty.model)
        if self.radial_counts_at_sites is not None:
            self._counts_late = self.radial_counts_at_sites
        if self._counts_late:
            self._check_late_counts()
        if not waits:
            self._note_sites()
        self._radial_window = window
        return window

    def _note_sites(self) -> None:
        """The sites and their targets are known: tell the user, and the run's record."""
        penalty: Any = self.radial_penalty
        if self._radial_window is not None and self.args.should_save:  # late: in the first forward
            write_run_record(self)
        unusual = not is_transformers_model(penalty.model) and self.radial_config.radial_lambda > 0
        (logger.warning if unusual else logger.info)("%r\n%s", penalty, penalty.table())

    def _find_sites_now(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], named: dict[str, Any]) -> None:
        """Find the sites in the first forward of training that has a gradient, and go on with the penalty in this forward."""
        if not self._in_step or not self._first_forward:
            return
        for handle in self._first_forward:
            handle.remove()
        self._first_forward, self._sites_wait = [], False
        with self._optional_without_lambda():
            penalty = self.radial_penalty = set_up.penalty_of(self, self.radial_config, named)
            window = self._attach(penalty)
            if self.args.should_save:
                write_run_record(self)
            self._begin_step(window)
            self._vectors_in_step = None
            penalty.paused, penalty.labels = False, self._labels
            penalty.enter_forward(root, args, kwargs)

    def _check_late_counts(self) -> None:
        """Raise if batches have to be counted in the step where that is impossible."""
        sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        steps = self.args.gradient_accumulation_steps
        if sharded and steps > 1 and self.radial_config.radial_lambda > 0:
            raise ValueError(
                f"the batches of {type(self).__name__} can be counted only when the model is called, which with "
                f"gradient_accumulation_steps={steps} needs gradients of the penalty alone, and "
                f"{self.accelerator.distributed_type.value} does not give them: set gradient_accumulation_steps=1, with a "
                "larger per_device_train_batch_size, or train with DistributedDataParallel"
            )

    def end_radial(self) -> None:
        """Leave the model as it was, and nothing of the run to be logged later."""
        for handle in self._first_forward:
            handle.remove()
        self._first_forward = []
        if self.radial_penalty is not None:
            self.radial_penalty.detach()
        self._radial_window = None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        window = self._radial_window
        if self.args.should_save and window is not None and self.radial_config.radial_radius == "initial":
            # Before the base class writes `trainer_state.json`, with which a checkpoint is complete.
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            write_targets(folder, window.radial_penalty.targets)
        super()._save_checkpoint(model, trial)

    def _begin_step(self, window: Window) -> None:
        window.is_single_batch_step = self._micro_batches_left == 1 and self.accelerator.num_processes == 1
        window.radial_penalty.radial_lambda = self.radial_config.lambda_at(self.state.global_step, self.state.max_steps)
        window.new_group()
        self._site_counts.clear()
