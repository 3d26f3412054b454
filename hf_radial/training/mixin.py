"""`RadialMixin`: one training step with the penalty, its normalisation and its logs, for any class derived from `Trainer`.

The definition. Let `V` be the vectors that are not padding in the whole effective batch: all micro-batches of an optimizer
step, on all ranks. The minimised loss is

    L = L_task + radial_lambda * sum over sites of  1/|V| * sum over h in V of (||h|| - R)^2 / d

Its gradient does not depend on how the batch was split. `Trainer` scales its loss by accumulation steps, by tokens or by ranks,
depending on the model, its version and its options. The penalty avoids all of these. It is added to the loss last, in
`accelerator.backward`. Its weight is right for what follows: the sum over micro-batches, and the mean over ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_radial.internals.epoch import FastEpochMixin
from hf_radial.internals.replacing import method_replaced
from hf_radial.internals.torch_compile import compiled_checkpoints_may_collect, graphs_are_kept
from hf_radial.penalty.vectors import count_vectors
from hf_radial.training.checkpoints import CheckpointMixin
from hf_radial.training.fast.resident import ResidentMixin
from hf_radial.training.run import RunMixin
from hf_radial.training.window import Window

logger = logging.get_logger(__name__)


class RadialMixin(RunMixin, FastEpochMixin, ResidentMixin, CheckpointMixin):
    """The penalty for any class derived from `Trainer`: `class RadialSFTTrainer(RadialMixin, SFTTrainer): ...`.

    Args:
        radial_lambda: weight of the penalty. With 0, training is exactly that of the plain trainer, and the radii are logged.
            An obstacle to the penalty (a model without known sites, reentrant checkpointing, ...) is then only a warning, and
            the radii are not logged.
        radial_radius: target radius: a number, `"sqrt_d"` (the paper's) or `"initial"`, each site's mean radius before the
            first step. It is measured on the first rows of the training set. If these have no index, or the model is called
            with something else (streamed data, preference pairs, generated text), it is measured on the first batch that the
            model is called with in training.
        radial_side: `"both"` (the paper's), `"above"` (a ceiling) or `"below"` (a floor).
        radial_warmup_steps: optimizer steps over which `radial_lambda` grows linearly from 0.
        radial_sites: module name patterns that replace or restrict the sites that are found; see `hf_radial.sites.find_sites`.
        radial_where: `"increment"` (the paper's) or `"pre_norm"`, for models with a norm after each sublayer; see
            `hf_radial.sites.find_sites`.
        radial_schedule: `"constant"`; `"cosine"`, from the full `radial_lambda` at the end of the warm-up to 0 in the last
            optimizer step; or a function of the optimizer step, counted from 0, that returns a factor of `radial_lambda`.

    Options that are left out are taken from `args` if it is a `RadialArguments`. Everything else is as in the base class.

    Logged with every training `loss` (the minimised loss), as means over the logging window and over ranks: `task_loss`,
    `radial_penalty` (sum over sites, without `radial_lambda`), `radial_lambda`, and for each site `radius/<site>` and
    `radius_target/<site>`. They show a step whose loss is NaN, even if `logging_nan_inf_filter` hides it from `loss`.

    Vectors are counted as the sites see them. If the model is called with the batch of the loader, the batch is counted before
    the step. Any other batch (GRPO, ORPO, sentence embeddings, ...) is counted during the step. That costs one more backward
    pass for each micro-batch but the last of a step. See `hf_radial.training.site_counts`.

    Attributes:
        radial_counts_at_sites: `True` counts every batch during the step; `False` counts every batch before the step if
            possible. `None` (the default) decides as above.

    Raises:
        ValueError: an option is out of range, no site is found, no parameter is trained, or the set-up would make the penalty
            wrong: reentrant gradient checkpointing; `torch.nn.DataParallel`; or, under FSDP or DeepSpeed, gradient accumulation
            with batches that are counted during the step.
        RuntimeError: in the first step, if the trainer's own `training_step` does not use `accelerator.backward`.
    """

    allows_fast_epoch = True  # `fast_step` does all that this class overrides
    radial_counts_at_sites: bool | None = None
    _warned_of_remainder = False

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
        self._interventions_given = list(getattr(self.args, "intervention", None) or ())
        for intervention in getattr(self.args, "made_interventions", list)():
            intervention.attach(self)

    # One step ---------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As the base class; then set `lambda` for the step and count its vectors, over all micro-batches and ranks."""
        batch_samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        window = self._radial_window
        self._micro_batches_left = len(batch_samples)
        self._vectors_in_step = None
        if batch_samples and window is not None:
            self._begin_step(window)
            if not window.is_single_batch_step:
                self._vectors_in_step = self._count_in_advance(batch_samples, window)
        return batch_samples, num_items_in_batch

    def _count_in_advance(self, batch_samples: Sequence[Any], window: Window) -> Tensor | None:
        """The number of vectors of the step, by mask, shape `(masks,)`; `None` if only the sites can count them."""
        count: Any = None
        if not self._counts_late:
            try:
                count = sum(self._count_vectors(batch, window) for batch in batch_samples)
            except (TypeError, ValueError) as error:
                logger.info("batches are counted when the model is called: %s", error)
                self._counts_late = True  # the same on every rank: all batches of one loader have the same names
                self._check_late_counts()
        return None if count is None else self.accelerator.reduce(count, reduction="sum")

    def _count_vectors(self, batch: Any, window: Window) -> Tensor:
        """The number of vectors of a batch, by padding mask, shape `(masks,)`."""
        main_input = getattr(self.model, "main_input_name", "input_ids")
        counts = [count_vectors(batch, mask, main_input) for mask in window.masks]
        return torch.stack([count.to(self.args.device, torch.float32) for count in counts])

    @contextmanager
    def _collecting(self, inputs: Any) -> Iterator[None]:
        """Collect the model's forward passes."""
        # With label smoothing, the model is called without the labels.
        self._labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        self._in_step, window = True, self._radial_window
        if window is not None:
            window.radial_penalty.paused, window.radial_penalty.labels = False, self._labels
        try:
            with self._compiled_as_needed(window) if window is not None and window.compiled else nullcontext():
                yield
        finally:
            self._in_step, self._labels = False, None
            if self.radial_penalty is not None:
                self.radial_penalty.paused, self.radial_penalty.labels = True, None
                self.radial_penalty.reset()

    @contextmanager
    def _compiled_as_needed(self, window: Window) -> Iterator[None]:
        late = not window.is_single_batch_step and self._vectors_in_step is None
        with compiled_checkpoints_may_collect(), graphs_are_kept() if late else nullcontext():
            yield

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """As the base class. The penalty of this micro-batch is added in the backward pass, and to the returned loss."""
        if self._radial_window is None and not self._first_forward:
            return super().training_step(model, inputs, *args, **kwargs)
        accelerator = self.accelerator
        if self.radial_penalty is not None:
            self.radial_penalty.reset()
        counted: Tensor | None = None
        share: Tensor | None = None
        if self._radial_window is not None and self._vectors_in_step is not None:
            # The micro-batch's share of the effective batch. The shares of all micro-batches and ranks add up to one.
            mask_of_site = self._radial_window.mask_of_site
            counted = self._count_vectors(inputs, self._radial_window)[mask_of_site]
            share = counted / self._vectors_in_step.clamp(min=1)[mask_of_site]
        weighted: Tensor | None = None
        calls = 0

        def backward(loss: Tensor, **backward_kwargs: Any) -> None:
            nonlocal weighted, calls
            window, calls = self._radial_window, calls + 1
            if window is None:
                if self.radial_config.radial_lambda > 0:
                    raise RuntimeError(
                        f"no site found: {type(self).__name__}.training_step did not call {type(self.model).__name__} "
                        "itself (not one of its parts) with gradients enabled; name the modules with "
                        "radial_sites=['*.o_proj', ...]"
                    )
                return plain_backward(loss, **backward_kwargs)
            penalty = window.radial_penalty
            if calls > 1 and penalty.strict:
                raise RuntimeError(
                    f"{type(self).__name__}.training_step called accelerator.backward twice, so the penalty's mean over the "
                    "micro-batch is not known in the first call: add up the losses and call it once"
                )
            sums = penalty.take()
            group_means: Tensor | None = None
            if window.is_single_batch_step:
                means = sums.mean_penalty()
                window.add(means.detach(), sums.radius, sums.count)
            elif share is not None:
                means = sums.mean_penalty()
                means = share.to(means.device) * means
                window.add(means.detach(), sums.radius, sums.count, counted)
            elif self._micro_batches_left > 1:
                seen = self._site_counts.hold(sums, accelerator, penalty.radial_lambda > 0)
                window.add(torch.zeros_like(sums.penalty), sums.radius, sums.count, seen[window.mask_of_site])
                weighted = torch.zeros_like(loss.detach())
                return plain_backward(loss, **backward_kwargs)
            else:
                means, group_means, seen = self._site_counts.last(sums, accelerator, penalty.radial_lambda)
                window.add(group_means, sums.radius, sums.count, seen[window.mask_of_site])
            # Gradients are averaged over ranks later. The factor undoes that: the parts must be summed.
            factor = penalty.radial_lambda * accelerator.num_processes
            term = (factor * means.sum()).to(loss.device)
            weighted = term.detach() if group_means is None else (factor * group_means.sum()).to(loss.device)
            # Not even zero is added: with radial_lambda=0 the graph is bit for bit that of the plain trainer.
            plain_backward(loss + term if penalty.radial_lambda > 0 else loss, **backward_kwargs)

        plain_backward = accelerator.backward
        with method_replaced(accelerator, "backward", backward), self._collecting(inputs):
            task_loss = super().training_step(model, inputs, *args, **kwargs)
        window = self._radial_window
        if weighted is None and self.radial_config.radial_lambda > 0:
            raise RuntimeError(
                f"{type(self).__name__}.training_step did not call self.accelerator.backward, so the penalty never reached the "
                "gradient; use accelerator.backward(loss) in it, or RadialPenalty in a loop of your own"
            )
        self._micro_batches_left -= 1
        if window is None:
            return task_loss
        window.task_loss += task_loss
        if self._micro_batches_left <= 0:
            self._end_group(window)
        return task_loss + weighted if weighted is not None and window.radial_penalty.radial_lambda > 0 else task_loss

    @contextmanager
    def step_repeated(self, batches: int) -> Iterator[None]:
        """Let `training_step` run the micro-batches of the present step once more, without a trace in the logs.

        Args:
            batches: how many micro-batches the step has.
        """
        window = self._radial_window
        if window is not None:
            again = self._radial_window = Window(window.radial_penalty, window.device)
            again.compiled, again.is_single_batch_step = window.compiled, window.is_single_batch_step
        self._micro_batches_left = batches
        try:
            yield
        finally:
            self._radial_window = window

    def _end_group(self, window: Window) -> None:
        if self.accelerator.sync_gradients:
            window.end_step()
        elif not self._warned_of_remainder:
            self._warned_of_remainder = True
            logger.warning(
                "the number of batches of an epoch is unknown, and not a multiple of gradient_accumulation_steps=%d: Trainer "
                "adds the gradient of the remaining batches to the first step of the next epoch. The loss, the task loss and "
                "the penalty of that step are the sum of both",
                self.args.gradient_accumulation_steps,
            )

    def fast_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        """As `training_step`, for a step of a single batch. All vectors are in that batch, so no count is needed."""
        if self._first_forward:
            self._micro_batches_left = 1
        window = self._radial_window
        if window is not None:
            window.radial_penalty.radial_lambda = self.radial_config.lambda_at(self.state.global_step, self.state.max_steps)
            window.is_single_batch_step = True
        elif not self._first_forward:
            return super().fast_step(model, inputs, num_items_in_batch)
        with self._collecting(inputs):
            loss = self._fast_loss(model, inputs, num_items_in_batch)
            window = self._radial_window
            if window is None:
                loss.backward()
                return loss.detach()
            penalty = window.radial_penalty
            sums = penalty.take()
            means = sums.mean_penalty()
            task_loss = loss.detach()
            if penalty.radial_lambda > 0:
                loss = loss + (penalty.radial_lambda * means.sum()).to(loss.device)
            loss.backward()
        window.end_step()
        window.task_loss += task_loss
        window.add(means.detach(), sums.radius, sums.count)
        return loss.detach()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the base class. A log of the training `loss` also gets the task loss, the penalty and the radii."""
        if "loss" in logs and self._radial_window is not None and self._radial_window.steps:
            other_logs = {name: logs.pop(name) for name in list(logs) if name != "loss"}
            logs.update(self._radial_window.drain(self.accelerator))
            logs.update(other_logs)
        super().log(logs, *args, **kwargs)
