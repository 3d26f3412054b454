"""Set-up of a `Trainer` with the penalty before its first step: checks, and the penalty on its model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from hf_radial.internals import torch_modules
from hf_radial.penalty.config import RadialConfig
from hf_radial.penalty.radial_penalty import RadialPenalty
from hf_radial.penalty.vectors import parameter_names
from hf_radial.sites.find import ForwardFailedError
from hf_radial.sites.finder import HOW_TO_NAME
from hf_radial.sites.hooks import RootHook
from hf_radial.training.rows import TRACED_ROWS, calls_model_with_rows, first_rows

logger = logging.get_logger(__name__)


def check_arguments(args: TrainingArguments) -> None:
    """Raise a ValueError if these arguments would make the penalty wrong."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):  # the newer name, and the one before transformers 5.2x
        kwargs = getattr(args, f"{name}_kwargs", None)
        if getattr(args, name, None) and isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
            raise ValueError(
                f"{name}_kwargs={{'use_reentrant': True}} would train without the penalty's gradient; "
                "use {'use_reentrant': False}"
            )
    if args.n_gpu > 1:
        raise ValueError(
            f"torch.nn.DataParallel over {args.n_gpu} GPUs is not supported: start one process per GPU with "
            "`accelerate launch` or `torchrun`, or show this process one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def check_trainable(model: nn.Module) -> None:
    """Raise a ValueError if no parameter is trained."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            f"every parameter of {type(model).__name__} is frozen (requires_grad=False), so nothing would be trained: set "
            "requires_grad=True for some of them, or give the trainer a peft_config"
        )


def make_penalty(trainer: Trainer, config: RadialConfig) -> RadialPenalty | None:
    """The penalty on the trainer's model; `None` if its sites can be found only in the first forward of training.

    The sites are found with the first rows of the training set, or with the inputs that `transformers` knows for the model.

    Raises:
        ValueError: an option is out of range, or the model has no known site.
    """
    if trainer.model is None:
        raise ValueError("the trainer has no model")
    try:
        inputs = first_rows(trainer, TRACED_ROWS)
    except Exception as error:  # training will give a better error
        logger.debug("no batch of the first rows: %s", error)
        inputs = None
    for given in [None] if inputs is None else [inputs, None]:  # the batch may not fit the model: preference pairs, say
        try:
            return penalty_of(trainer, config, given)
        except ForwardFailedError as error:
            if given is None and calls_model_with_rows(trainer):
                raise
            logger.debug("no site found yet: %s", error)
    return None


def penalty_of(trainer: Trainer, config: RadialConfig, inputs: dict[str, Any] | None) -> RadialPenalty:
    """As `make_penalty`, with `inputs` for the forward that finds the sites."""
    model: Any = trainer.model
    try:
        penalty = RadialPenalty(
            model,
            config.radial_lambda,
            radius=config.radial_radius,
            side=config.radial_side,
            sites=config.radial_sites,
            where=config.radial_where,
            inputs=inputs,
        )
    except ValueError as error:  # a trainer has no argument `inputs`, and its `sites` is called `radial_sites`
        text = str(error)
        if isinstance(error, ForwardFailedError):
            text = f"{text.partition(' Pass inputs=')[0]} To go on, {HOW_TO_NAME}"
        raise type(error)(re.sub(r"\bsites(?=[=:])", "radial_sites", text)) from error
    penalty.strict = config.radial_lambda > 0
    penalty.paused = True  # except during a training step
    return penalty


def on_first_forward(
    model: nn.Module, act: Callable[[nn.Module, tuple[Any, ...], dict[str, Any], dict[str, Any]], None]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Call `act` at the start of every training forward, with the model, its arguments, and its arguments by name."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            act(module, args, kwargs, {**dict(zip(parameter_names(model), args, strict=False)), **kwargs})

    return [model.register_forward_pre_hook(RootHook(enter), with_kwargs=True)]


def is_compiled(trainer: Trainer, model: nn.Module) -> bool:
    """Whether the model or a part of it is compiled, by any caller."""
    if trainer.accelerator.state.dynamo_plugin.backend.value != "NO":  # `torch_compile=True`, or the launcher's
        return True
    return torch_modules.is_compiled(model)


def check_interventions(trainer: Any, given: list[str] | None) -> None:
    """Raise a ValueError if the arguments name interventions that are not attached: the record would be wrong.

    Args:
        trainer: its `args.intervention` goes into the record.
        given: that option when the trainer attached its interventions; `None` if it attached none.
    """
    named = list(getattr(trainer.args, "intervention", None) or ())
    attached = {one.name for one in trainer.callback_handler.callbacks if hasattr(one, "put_in_force")}
    missing = [text for text in named if text.partition(":")[0] not in attached]
    if missing or (given is not None and named != given):
        raise ValueError(
            f"intervention={named} is in the arguments but not in force. A search cannot choose interventions: make a trainer "
            "for each of them. A trainer that is not a RadialTrainer needs add_interventions(trainer, args.intervention)"
        )
