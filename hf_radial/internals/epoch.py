"""A fast training loop: one epoch of `Trainer` in the plain case, with the same effects and less work per step.

In the step of a small model, `Trainer` and accelerate take longer than the model. They ask which packages are installed,
compute a gradient norm that is not logged, call callbacks that do nothing, and check for each of their features whether it is
on. In the plain case (one process, no accumulation, no gradient scaler, no overridden step) these answers are known before the
epoch. This file holds the check for that case (`why_not_fast`) and its loop (`FastEpochMixin`). In any other case, `Trainer`'s
own loop runs.

The order of events, the random states, the weights, the logs and the trainer's state equal those of `Trainer._run_epoch` to the
last bit. One exception: where `max_grad_norm` is 0, the gradients are still in memory when callbacks get `on_step_end`.

It replaces `Trainer._run_epoch` and, for the epoch, `CallbackHandler.call_event`. `docs/internals.md` lists what else it uses,
and the tests that notice a change.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import CallbackHandler
from transformers.utils import logging

from hf_radial.internals.memory import keep_freed_memory
from hf_radial.internals.replacing import method_replaced

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object

logger = logging.get_logger(__name__)

# Methods of `Trainer` whose work the loop below does itself, or leaves out.
REPLACED = (
    "training_step",
    "get_batch_samples",
    "_get_grad_norm",
    "_maybe_log_save_evaluate",
    "_prepare_context_parallel_inputs",
)
# The gradient norm is computed only when it is logged. Gradients are kept until then if they take no more bytes than this.
MOST_KEPT_GRADIENTS = 256 * 2**20
EPOCH_ARGUMENTS = (
    "model",
    "epoch",
    "train_dataloader",
    "steps_in_epoch",
    "num_update_steps_per_epoch",
    "trial",
    "ignore_keys_for_eval",
    "start_time",
    "resume_from_checkpoint",
    "epochs_trained",
)


class FastEpochMixin(_Base):
    """`Trainer` with the fast training loop where it applies. Put it before `Trainer` among a class's bases."""

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        parameters = inspect.signature(Trainer._run_epoch)
        given = parameters.bind(self, *args, **kwargs).arguments
        if reason := why_not_fast(self, given):
            logger.debug("the plain Trainer's loop runs: %s", reason)
            return super()._run_epoch(*args, **kwargs)
        with _idle_callbacks_skipped(self.callback_handler):
            return self._fast_epoch(*(given[name] for name in EPOCH_ARGUMENTS[:8]))

    def fast_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        """Forward and backward of a step of one batch; returns the loss, detached."""
        loss = self._fast_loss(model, inputs, num_items_in_batch)
        loss.backward()
        return loss.detach()

    def _fast_loss(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        if not all(module.training for module in self._epoch_facts.modules):
            model.train()
        with self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, self._fast_inputs(inputs), num_items_in_batch=num_items_in_batch)
        return loss

    def _fast_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        device, facts = self._tr_loss.device, self._epoch_facts
        there = inputs and all(isinstance(value, Tensor) and value.device == device for value in inputs.values())
        return dict(inputs) if there and facts.inputs_are_own else self._prepare_inputs(inputs)

    def _fast_epoch(
        self,
        model: nn.Module,
        epoch: float,
        dataloader: Any,
        steps_in_epoch: int,
        steps: int,
        trial: Any,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
    ) -> None:
        args, state, handler, device = self.args, self.state, self.callback_handler, self.args.device
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        if type(optimizer) is AcceleratedOptimizer:
            optimizer._opt_called = True  # a scheduler made for the wrapper checks this to see whether a step came first
            optimizer = optimizer.optimizer
        facts = self._epoch_facts = _EpochFacts(self, model, optimizer)
        parameters = facts.parameters
        grad_norm: Any = None
        learning_rate: float | None = None
        batches = _begin(dataloader, epoch)
        if device.type == "cpu":
            keep_freed_memory()
        self.current_gradient_accumulation_steps = 1
        self.accelerator.gradient_state._set_sync_gradients(True)
        step: int = -1
        for step, inputs in zip(range(steps), batches):  # noqa: B905 - the loader may end before
            num_items = self._get_num_items_in_batch([inputs], device)
            self.control = handler.on_step_begin(args, state, self.control)
            loss = self.fast_step(model, inputs, num_items)
            self._add_loss(loss)
            self.current_flos += self._flops(inputs)  # type: ignore[assignment]
            self._track_num_input_tokens(inputs)
            gradients: Sequence[Tensor] = ()
            if (args.max_grad_norm or 0) > 0:
                grad_norm = super()._get_grad_norm(model, grad_norm=self._clip_grad_norm(model))
            elif facts.gradients_can_wait and self._nobody_at("on_pre_optimizer_step", "on_optimizer_step"):
                gradients = [p.grad for p in parameters if p.grad is not None]
            else:
                grad_norm = super()._get_grad_norm(model, grad_norm=None)
            self.control = handler.on_pre_optimizer_step(args, state, self.control)
            optimizer.step()
            self.control = handler.on_optimizer_step(args, state, self.control)
            learning_rate = self._get_learning_rate()
            scheduler.step()
            for p in parameters:
                p.grad = None
            state.global_step += 1
            state.epoch = epoch + (step + 1) / steps_in_epoch
            self.control = handler.on_step_end(args, state, self.control)
            control = self.control
            due = control.should_log or control.should_evaluate or control.should_save
            last = control.should_epoch_stop or control.should_training_stop or step + 1 == steps
            if gradients and (due or last):  # the end of an epoch may log the norm too, and an evaluation may end training
                grad_norm = torch.nn.utils.get_total_norm(gradients)
            del gradients
            if due:
                self._maybe_log_save_evaluate(
                    self._tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=learning_rate
                )
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        if step < 0:
            logger.warning("the training data gave no batch in epoch %s: training stops at step %d", epoch, state.global_step)
            self.control.should_training_stop = True
        self.control = handler.on_epoch_end(args, state, self.control)
        self._maybe_log_save_evaluate(
            self._tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=learning_rate
        )
        # A loader that is not read to its end stays registered, and every batch searches all that are.
        self.accelerator.gradient_state._remove_dataloader(dataloader)

    def _add_loss(self, loss: Tensor) -> None:
        """Add to the next log's sum; with `logging_nan_inf_filter`, a loss that is not finite counts as the mean so far."""
        if self._tr_loss.device != loss.device:
            raise ValueError(f"the loss is on {loss.device}, but training runs on {self._tr_loss.device}")
        if not self.args.logging_nan_inf_filter:
            self._tr_loss += loss
            return
        steps = 1 + self.state.global_step - self._globalstep_last_logged
        if loss.device.type == "cpu":
            self._tr_loss += loss if math.isfinite(loss.item()) else self._tr_loss / steps
        else:  # without waiting for the device
            self._tr_loss += torch.where(torch.isfinite(loss), loss, self._tr_loss / steps)

    def _flops(self, inputs: dict[str, Any]) -> float:
        """`floating_point_ops`, cached by the main input's size, since the original counts the parameters at each call."""
        facts = self._epoch_facts
        main_input = inputs.get(facts.main_input) if facts.flops_are_own else None
        if not isinstance(main_input, Tensor):
            return float(self.floating_point_ops(inputs))
        size = main_input.numel()
        if size not in facts.flops:
            facts.flops[size] = float(self.floating_point_ops(inputs))
        return facts.flops[size]

    def _nobody_at(self, *events: str) -> bool:
        return all(_is_idle(callback, event) for callback in self.callback_handler.callbacks for event in events)


class _EpochFacts:
    """Facts that do not change within an epoch.

    Attributes:
        gradients_can_wait: the gradient norm may be computed after the optimizer's step: the optimizer does not write into
            gradients, and they are small enough to keep.
    """

    def __init__(self, trainer: Trainer, model: nn.Module, optimizer: Any) -> None:
        self.modules, self.parameters = list(model.modules()), list(model.parameters())
        self.inputs_are_own = all(_owner(trainer, name) is Trainer for name in ("_prepare_inputs", "_prepare_input"))
        self.flops_are_own = _owner(trainer, "floating_point_ops") is Trainer
        self.flops: dict[int, float] = {}
        self.main_input = getattr(trainer.model, "main_input_name", "input_ids")
        size = sum(p.numel() * p.element_size() for p in self.parameters)
        self.gradients_can_wait = type(optimizer).__module__.startswith("torch.optim") and size <= MOST_KEPT_GRADIENTS


def why_not_fast(trainer: Trainer, given: dict[str, Any]) -> str | None:
    """The reason why an epoch needs `Trainer`'s own loop, or `None`. `given` holds the arguments of `_run_epoch` by name."""
    args, accelerator = trainer.args, trainer.accelerator
    overridden = [name for name in REPLACED if not _is_own(trainer, name)]
    reasons = {
        "_run_epoch has other arguments in this version of transformers": any(n not in given for n in EPOCH_ARGUMENTS),
        "it goes on from a checkpoint": given.get("resume_from_checkpoint") is not None
        and given.get("epoch") == given.get("epochs_trained"),
        f"{', '.join(overridden)} is overridden": bool(overridden),
        "the step belongs to another callback handler": type(trainer.callback_handler) is not CallbackHandler,
        "several processes": accelerator.distributed_type != DistributedType.NO
        or accelerator.num_processes > 1
        or args.n_gpu > 1,
        "gradient accumulation": args.gradient_accumulation_steps != 1 or accelerator.gradient_accumulation_steps != 1,
        "accelerator.backward is not its own": "backward" in vars(accelerator) or type(accelerator) is not Accelerator,
        "a gradient scaler": accelerator.scaler is not None,
        "torch_empty_cache_steps": args.torch_empty_cache_steps is not None,
        f"optim={args.optim}": "lomo" in str(args.optim).lower() or hasattr(_inner(trainer.optimizer), "train"),
        "a scheduler that needs metrics": type(_inner(trainer.lr_scheduler)).__name__ in ("ReduceLROnPlateau", "GreedyLR"),
        "parallelism within the model": getattr(accelerator, "parallelism_config", None) is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _begin(dataloader: Any, epoch: float) -> Iterator[Any]:
    """The batches in this epoch's order."""
    inner = getattr(getattr(dataloader, "batch_sampler", None), "batch_sampler", None)
    for part in (dataloader, inner):
        if part is not None and hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    return iter(dataloader)


def _inner(wrapper: Any) -> Any:
    """The optimizer or scheduler that accelerate has wrapped."""
    return getattr(wrapper, "optimizer" if hasattr(wrapper, "param_groups") else "scheduler", wrapper)


def _owner(trainer: Trainer, name: str) -> Any:
    """The class that defines a method, or the trainer if the method was replaced on the instance."""
    return trainer if name in vars(trainer) else next((c for c in type(trainer).__mro__ if name in vars(c)), None)


def _is_own(trainer: Trainer, name: str) -> bool:
    """Whether a method is defined only by `Trainer` and by classes of this package."""
    if name in vars(trainer):
        return False
    owners = [c for c in type(trainer).__mro__ if name in vars(c)]
    return all(c is Trainer or vars(c).get("allows_fast_epoch", False) for c in owners)


def _is_idle(callback: TrainerCallback, event: str) -> bool:
    return event not in vars(callback) and getattr(type(callback), event, None) is getattr(TrainerCallback, event)


@contextmanager
def _idle_callbacks_skipped(handler: CallbackHandler) -> Iterator[None]:
    """Skip events that no callback listens to: each call would collect nine arguments in vain."""
    plain = handler.call_event

    def call_event(event: str, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if all(_is_idle(callback, event) for callback in handler.callbacks):
            return control
        return plain(event, args, state, control, **kwargs)

    with method_replaced(handler, "call_event", call_event):
        yield
