"""Small private parts of `Trainer`, of transformers' modules and of accelerate's prepared models.

Checked with transformers 5.17 to 5.23 and accelerate 1.1 to 1.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def output_folder(trainer: Any, trial: Any) -> Path:
    """The folder of a trainer's run; in a search of hyperparameters, that of the trial."""
    return Path(trainer._get_output_dir(trial=trial))


def checkpoint_folder(trainer: Any, trial: Any) -> Path:
    """The folder of the checkpoint that a trainer writes at its present step."""
    return output_folder(trainer, trial) / f"checkpoint-{trainer.state.global_step}"


def trial_of(trainer: Any) -> Any:
    """The trial that a trainer runs in a search of hyperparameters, or `None`."""
    return getattr(trainer, "_trial", None) if trainer.hp_search_backend is not None else None


def collator_of(trainer: Any) -> Callable[[Any], Any]:
    """The collator of the training set, which leaves out columns that the model does not take."""
    return trainer._get_collator_with_removed_columns(trainer.data_collator, description="training")


def prepared(trainer: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as the trainer gives it to its model: on its device.

    trl's trainers that generate have `_buffered_inputs`. Theirs would generate here and train on the result later, so that
    `Trainer`'s own method is called.
    """
    from transformers import Trainer

    if hasattr(trainer, "_buffered_inputs"):
        return dict(Trainer._prepare_inputs(trainer, dict(batch)))
    return dict(trainer._prepare_inputs(dict(batch)))


@contextmanager
def terminal_left_out(trainer: Any) -> Iterator[None]:
    """Leave out the callbacks that write every log into the terminal."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    handler = trainer.callback_handler
    callbacks = handler.callbacks
    handler.callbacks = [one for one in callbacks if not isinstance(one, (ProgressCallback, PrinterCallback))]
    try:
        yield
    finally:
        handler.callbacks = callbacks


def checkpoints_reentrantly(module: nn.Module) -> bool:
    """Whether a module of transformers uses gradient checkpointing with `use_reentrant=True`."""
    function = getattr(module, "_gradient_checkpointing_func", None)
    return bool(getattr(module, "gradient_checkpointing", False) and getattr(function, "keywords", {}).get("use_reentrant"))


def forward_without_autocast(model: nn.Module) -> Callable[..., Any] | None:
    """The forward that accelerate wrapped into autocast when it prepared the model; `None` if it did not."""
    return vars(model).get("_original_forward")
