"""A run with the penalty: set-up, attaching at the start of training, detaching at its end, and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from hf_radial.hub.pushing import PushingMixin
from hf_radial.internals.trainer_parts import checkpoint_folder
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
    """The part of `RadialMixin` around the steps of a run. It does not contain the steps."""

    radial_counts_at_sites: bool | None = None
    _resumed_targets: Mapping[str, float] | None = None
    _in_step = False  # while `training_step` runs
    _micro_batches_left = 0  # of the step, including the one that runs
    _vectors_in_step: Tensor | None = None  # over all micro-batches and ranks, by mask; None: only the sites can count
    _labels: Tensor | None = None  # of the running batch

    def init_radial(self, options: dict[str, Any], owner: TrainerCallback | None = None) -> None:
        """Set up the penalty on a trainer after its own `__init__`. `owner` is the `RadialCallback` that adds it, if any."""
        self._radial_options = options
        self._radial_owner: Any = owner
        self._radial_window: Window | None = None
        self._first_forward: list[torch.utils.hooks.RemovableHandle] = []  # hooks that find the sites in the first forward
        self.run_facts: dict[str, Any] = getattr(self, "run_facts", {})
        self._set_up(resolve_config(self.args, **options))

    def _set_up(self, config: RadialConfig) -> None:
        self.radial_config, self._radial_model = config, self.model
        self.radial_penalty: RadialPenalty | None = None
        self._sites_wait = False
        with self._only_warn_without_lambda():
            set_up.check_arguments(self.args)
            self.radial_penalty = set_up.make_penalty(self, config)
            self._sites_wait = self.radial_penalty is None

    @contextmanager
    def _only_warn_without_lambda(self) -> Iterator[None]:
        """Turn a ValueError of the set-up into a warning, and log no radii, if `radial_lambda` is 0 and no sites are named."""
        try:
            yield
        except ValueError as error:
            # Sites that the user names must exist in any case.
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
            # An earlier run failed without telling the callback. If it is still attached, it begins this run normally.
            self._radial_owner.release()
            return self._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
        try:
            self.begin_radial(resume_from_checkpoint)
            output = super()._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
            self.finish_pushing()
            return output
        finally:
            self.end_radial()

    # The callback enters after the loop above has begun. These parts of the loop are called later.

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        with self._release_owner_on_error():
            return super()._run_epoch(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._release_owner_on_error():
            return super()._evaluate(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        with self._release_owner_on_error():
            return super()._finalize_training(*args, **kwargs)

    @contextmanager
    def _release_owner_on_error(self) -> Iterator[None]:
        """Release the callback that brought the penalty if an error is raised. `Trainer` does not tell callbacks of errors."""
        try:
            yield
        except BaseException:
            if self._radial_owner is not None:
                self._radial_owner.release()
            raise

    def begin_radial(self, resume_from_checkpoint: str | None, targets: Mapping[str, float] | None = None) -> None:
        """Attach the penalty to the model, set its targets and write the run's record.

        Args:
            resume_from_checkpoint: the folder that the run resumes from; `None` if it does not resume, or the folder is
                unknown.
            targets: for `radial_radius="initial"`, the targets of the resumed run.
        """
        set_up.check_interventions(self, getattr(self, "_interventions_given", None))
        config = resolve_config(self.args, **self._radial_options)
        # A hyperparameter search changes `args` for every trial, and `model_init` makes a new model.
        if config != self.radial_config or self._radial_model is not self.model:
            self._set_up(config)
        if self.radial_penalty is not None or self._sites_wait:
            with self._only_warn_without_lambda():
                model: Any = self.model
                set_up.check_trainable(model)
                self._resumed_targets = targets
                if targets is None and config.starts_from_initial and resume_from_checkpoint is not None:
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
        elif self.radial_config.starts_from_initial:
            calibrate(self, penalty, self._note_sites)
        waits = penalty.waits_for_first_forward
        penalty.attach()
        window = Window(penalty, self.args.device)
        window.compiled = set_up.is_compiled(self, penalty.model)
        if window.compiled:
            torch.compiler.reset()  # otherwise code that was compiled without hooks would be used again
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
        """Report the sites and their targets to the user and in the run's record. Called when they are known."""
        penalty: Any = self.radial_penalty
        if self._radial_window is not None and self.args.should_save:  # only in the first forward
            write_run_record(self)
        unusual = not is_transformers_model(penalty.model) and self.radial_config.radial_lambda > 0
        (logger.warning if unusual else logger.info)("%r\n%s", penalty, penalty.table())

    def _find_sites_now(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], named: dict[str, Any]) -> None:
        """Find the sites in the first training forward with gradients, and collect the penalty from this forward on."""
        if not self._in_step or not self._first_forward:
            return
        for handle in self._first_forward:
            handle.remove()
        self._first_forward, self._sites_wait = [], False
        with self._only_warn_without_lambda():
            penalty = self.radial_penalty = set_up.penalty_of(self, self.radial_config, named)
            window = self._attach(penalty)
            if self.args.should_save:
                write_run_record(self)
            self._begin_step(window)
            self._vectors_in_step = None
            penalty.paused, penalty.labels = False, self._labels
            penalty.enter_forward(root, args, kwargs)

    def _check_late_counts(self) -> None:
        """Raise if batches must be counted during the step, and this is impossible."""
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
        """Detach the penalty from the model, and drop sums that are not logged yet."""
        for handle in self._first_forward:
            handle.remove()
        self._first_forward = []
        if self.radial_penalty is not None:
            self.radial_penalty.detach()
        self._radial_window = None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        window = self._radial_window
        if self.args.should_save and window is not None and self.radial_config.starts_from_initial:
            # Written before `trainer_state.json`, the file that makes a checkpoint complete.
            folder = checkpoint_folder(self, trial)
            write_targets(folder, window.radial_penalty.targets)
        super()._save_checkpoint(model, trial)

    def _begin_step(self, window: Window) -> None:
        window.is_single_batch_step = self._micro_batches_left == 1 and self.accelerator.num_processes == 1
        window.radial_penalty.radial_lambda = self.radial_config.lambda_at(self.state.global_step, self.state.max_steps)
        window.new_group()
        self._site_counts.clear()
