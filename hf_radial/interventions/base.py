"""`Intervention`: what all interventions are, and when each of its methods is called. Not in here: any one of them.

An intervention must be in force in the model that is trained. `Trainer` makes that model when `train()` is called, because
`model_init` returns a new model for every trial of a search. Therefore an intervention hooks the model, replaces the optimizer
and forgets earlier runs in `begin`. `_Training` calls `begin` each time that training begins, before the optimizer is made.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_radial.internals.torch_modules import is_compiled
from hf_radial.internals.trainer_parts import checkpoint_folder
from hf_radial.interventions.options import check_options
from hf_radial.safe_files import replacing
from hf_radial.sites.hooks import is_hooked, order_hooks

SAVED = "hf_radial_interventions"  # in a model's configuration: what `restore` puts in force


class Intervention(TrainerCallback):
    """One way to train differently, for any `Trainer`. A subclass is a dataclass of its options; see `options.py`.

    A subclass fills some of these methods:

    - `configure` changes a model's configuration before the model is made.
    - `check` raises where the intervention cannot be used. It changes nothing.
    - `attach` changes the trainer: its arguments, its loss, its optimizer's class.
    - `begin` changes the model, each time that training begins, and `end` takes back what must not outlive training.
    - `put_in_force` changes what the model computes, in evaluation too; `text_to_restore` goes with the saved model.
    - The events of a `TrainerCallback`: at `on_pre_optimizer_step` the gradients are there, clipped if they are. At
      `on_optimizer_step` the weights have just changed.

    What it remembers from step to step is in `tensors`. It goes into each checkpoint, and a run that is resumed gets it back.

    Attributes:
        name: what a user types.
        remembers: what `tensors` are, in words; empty for an intervention that remembers nothing.
        swept: its options in which runs that share their steps (`hf_radial.sweep`) may differ; `None` if they cannot have it.
    """

    name: ClassVar[str]
    remembers: ClassVar[str] = ""
    swept: ClassVar[tuple[str, ...] | None] = None
    trainer: Any = None
    _model: int | None = None

    def __post_init__(self) -> None:
        check_options(self)

    def configure(self, config: Any) -> None:
        """Change the configuration of a model that is about to be made.

        Raises:
            ValueError: a model of this configuration has no place for it.
        """

    def check(self, trainer: Trainer) -> None:
        """Called when it is given to a trainer, and again each time that training begins, when `self.trainer` is the trainer.

        Raises:
            ValueError: it cannot be used with this trainer or its model, or something has taken it out of force.
        """

    def attach(self, trainer: Trainer) -> None:
        """Give it to a trainer, before `train()`.

        Raises:
            ValueError, TypeError: it cannot be used with this trainer or its model, or the trainer has it already.
        """
        if any(other.name == self.name for other in interventions_of(trainer)):
            raise ValueError(f"{self.name}: the trainer has this intervention already; give it once")
        if self.trainer not in (None, trainer):
            raise ValueError(f"{self.name}: this object is another trainer's intervention; make one for each trainer")
        self.check(trainer)
        self.trainer = trainer
        self._put_in_force(trainer.model)
        trainer.add_callback(self)
        _Training.of(trainer)

    def can_join_sweep(self) -> bool:
        """Whether runs that share their steps can have it with these options. A subclass must name its own `swept`."""
        return vars(type(self)).get("swept") is not None

    def join_sweep(self, member: Any) -> None:
        """Give it to a run that shares its steps, a `SweepMember`, in the place of `attach`.

        Raises:
            ValueError: such runs cannot have it, or it cannot be used with this run's model.
        """
        if not self.can_join_sweep():
            raise ValueError(f"{self.name}: runs that share their steps cannot have it with these options; train it alone")
        self.change_member(member)
        self.check(member)

    def change_member(self, member: Any) -> None:
        """Change the options or the model of a run that shares its steps, before the first step.

        Such a run has no loop of `Trainer`: of the other methods only `configure` and `check` are called.
        """

    def put_in_force(self, model: nn.Module) -> None:
        """Change what a model computes, in evaluation too. A second call on the same model changes nothing more."""

    def _put_in_force(self, model: nn.Module | None) -> None:
        # Once a model, so that hooks which the user registered later stay behind ours.
        if model is not None and not (self._model == id(model) and is_hooked(model, self.name)):
            self.put_in_force(model)
            self._model = id(model)

    def text_to_restore(self) -> str | None:
        """What `restore` needs to put it in force in the saved model; `None` if the saved model needs nothing."""
        return None

    def begin(self, trainer: Trainer) -> None:
        """Take effect in the trainer's model, which has its weights, and forget an earlier training; before the optimizer."""
        self._put_in_force(trainer.model)

    def end(self, trainer: Trainer) -> None:
        """Take back what must not outlive training. Called after `begin` in any case, also where training failed."""

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, by name."""
        return {}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave.

        Raises:
            ValueError: they are those of another model.
        """

    @property
    def state_file(self) -> str:
        """Its file in a checkpoint."""
        return f"intervention_{self.name}.safetensors"

    def save(self, folder: Path) -> None:
        """Write what it remembers into a checkpoint."""
        if tensors := self.tensors():
            with replacing(folder / self.state_file) as new:
                save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, new)

    def resume(self, folder: Path, device: torch.device) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: the checkpoint does not hold what it remembered.
        """
        if not self.remembers:
            return
        file = folder / self.state_file
        if not file.is_file():
            raise ValueError(
                f"{self.name}: {file} is missing, and with it {self.remembers}. Without it the run would go on as another run. "
                f"Resume a checkpoint that was saved with {self.name!r}, or start a new run from these weights: load the model "
                f"with from_pretrained({str(folder)!r}) and call train() without resume_from_checkpoint"
            )
        try:
            self.set_tensors(load_file(file, device=str(device)))
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.name}: {file} does not fit this model or these options ({error}). Resume with the model and the "
                "options that the checkpoint was saved with"
            ) from error

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer is None or not _Training.of(self.trainer).running:
            raise RuntimeError(
                f"{self.name} is not in force: this trainer trains in a loop of its own, without Trainer._inner_training_loop; "
                "use a trainer that keeps Trainer.train(), and give it interventions with add_interventions"
            )


def interventions_of(trainer: Trainer) -> list[Intervention]:
    """A trainer's interventions, in the order in which they were given."""
    return [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Intervention)]


def note_in_config(model: Any, one: Intervention) -> None:
    """Keep in the model's configuration, and so in each saved model, what `restore` needs."""
    text, config = one.text_to_restore(), getattr(model, "config", None)
    if text is not None and config is not None:
        others = [other for other in getattr(config, SAVED, None) or () if other.partition(":")[0] != one.name]
        setattr(config, SAVED, [*others, text])


class _Training:
    """One trainer's training and saving, with its interventions around them.

    It takes the place of two methods of the trainer: `_inner_training_loop`, which `Trainer.train` calls once the model is
    there, and `_save_checkpoint`. No event of a `TrainerCallback` comes that early.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer: Any = trainer
        self.running = False

    @classmethod
    def of(cls, trainer: Any) -> _Training:
        """The one of this trainer, made if there is none."""
        there = getattr(vars(trainer).get("_inner_training_loop"), "__self__", None)
        if isinstance(there, cls):
            return there
        made = cls(trainer)
        trainer._inner_training_loop, trainer._save_checkpoint = made.train, made.save_checkpoint
        return made

    def train(
        self,
        batch_size: int | None = None,
        args: TrainingArguments | None = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """`Trainer._inner_training_loop` with the interventions in force."""
        trainer = self.trainer
        plain = partial(type(trainer)._inner_training_loop, trainer)  # of the class that it has now: a callback may change it
        if self.running:
            return plain(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
        self.running, begun = True, []
        try:
            for one in interventions_of(trainer):
                one.check(trainer)
            for one in interventions_of(trainer):
                begun.append(one)
                one.begin(trainer)
                note_in_config(trainer.model, one)
                if resume_from_checkpoint is not None:
                    one.resume(Path(resume_from_checkpoint), trainer.args.device)
            order_hooks(trainer.model, [one.name for one in begun])
            _forget_compiled(trainer)
            return plain(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.running = False
            for one in reversed(begun):
                one.end(trainer)
                note_in_config(trainer.model, one)

    def save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As `Trainer._save_checkpoint`, which writes `trainer_state.json` last: with it a checkpoint is complete."""
        trainer = self.trainer
        for one in interventions_of(trainer):
            note_in_config(trainer.model, one)
            if trainer.args.should_save:
                one.save(checkpoint_folder(trainer, trial))
        type(trainer)._save_checkpoint(trainer, model, trial)


def _forget_compiled(trainer: Any) -> None:
    """What was compiled for a model with other hooks would be used again."""
    if is_compiled(trainer.model_wrapped):
        torch.compiler.reset()
