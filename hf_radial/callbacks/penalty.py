"""`RadialCallback`: the penalty in any `Trainer`.

    SFTTrainer(..., callbacks=[RadialCallback(radial_lambda=0.01)])

A callback is called at certain events. It cannot see the micro-batches of a step before they are used. It cannot change the
loss of a model that returns none (label smoothing, custom losses). It cannot write into logs before they are reported. The
exact penalty needs all of this. So the callback does one thing: it puts `RadialMixin` in front of the class of the trainer that
runs it, which is then a radial trainer, as `RadialTrainer` is. Both entry points run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_radial.internals.frames import calling_trainer
from hf_radial.internals.replacing import put_in_front, set_class
from hf_radial.penalty.config import RadialConfig
from hf_radial.training.mixin import RadialMixin

FUNCTION = "function "  # prefix of a schedule that is a function: a checkpoint holds only its name


class RadialCallback(TrainerCallback, ExportableState):
    """Adds the hypersphere penalty to the `Trainer` (plain, `Seq2SeqTrainer`, trl's, ...) that it is given to.

    Options, logs and errors are those of `RadialTrainer`. Pass it with `callbacks=[...]`, or with `add_callback` before
    `train()`. Remove it with `remove_callback`. When `train()` returns or raises, the trainer's class and the model are as
    before. (One exception: if another callback raises in `on_train_begin` or `on_epoch_begin`, hooks stay until the next
    `train()`. They collect nothing.)

    Its options and the targets of `radial_radius="initial"` are part of every checkpoint. A resumed run has the options given
    here, or, with `restore_callback_states_from_checkpoint=True`, the checkpoint's.

    A callback cannot choose the checkpoint. In any trainer but `RadialTrainer`, `train(resume_from_checkpoint=True)` takes the
    newest folder, even if a killed process left it incomplete. To be safe, give `resume_from_checkpoint` the path that
    `hf_radial.runs.resume.last_complete_checkpoint(output_dir)` returns.

    Raises:
        ValueError: an option is out of range; the trainer already has the penalty; or the checkpoint to resume from lacks
            targets that the options need.
    """

    def __init__(
        self,
        radial_lambda: float,
        radial_radius: float | str = "sqrt_d",
        radial_side: str = "both",
        radial_warmup_steps: int = 0,
        radial_sites: Sequence[str] | None = None,
        radial_schedule: str | Callable[[int], float] = "constant",
        radial_where: str = "increment",
    ) -> None:
        if isinstance(radial_schedule, str) and radial_schedule.startswith(FUNCTION):
            radial_schedule = self._function_named(radial_schedule.removeprefix(FUNCTION))
        self.config = RadialConfig(
            radial_lambda, radial_radius, radial_side, radial_warmup_steps, radial_sites, radial_schedule, radial_where
        )
        self.targets: dict[str, float] | None = None  # those of radius="initial", once they are known
        self.trainer: Any = None  # the trainer while it trains

    def state(self) -> dict[str, Any]:
        """The part of a checkpoint that belongs to this callback."""
        penalty = getattr(self.trainer, "radial_penalty", None)
        if self.config.starts_from_initial and penalty is not None and penalty.targets:
            self.targets = dict(penalty.targets)  # the first batch may have set them
        args = self.config.to_dict()
        if callable(self.config.radial_schedule):
            args["radial_schedule"] = FUNCTION + self.config.schedule_name
        return {"args": args, "attributes": {"targets": self.targets}}

    def _function_named(self, name: str) -> Callable[[int], float]:
        """The schedule named in a checkpoint, if the callback that this one replaces has the function of that name.

        A name from a file is not imported. The name of a lambda, of a nested function or of a class does not identify a
        function.
        """
        trainer = calling_trainer()
        for callback in [] if trainer is None else trainer.callback_handler.callbacks:
            if type(callback) is type(self) and callback.config.schedule_name == name and "<" not in name:
                schedule: Any = callback.config.radial_schedule
                if hasattr(schedule, "__qualname__"):
                    return schedule
        raise ValueError(
            f"radial_schedule: the checkpoint's run had {name!r}, which cannot be restored from a file. Give RadialCallback "
            "the same function, defined by name at the top of its module; or leave restore_callback_states_from_checkpoint "
            "out, and the run goes on with the options given to RadialCallback"
        )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = calling_trainer()
        if trainer is None:
            raise RuntimeError("RadialCallback must be called by a transformers.Trainer")
        self.release()  # an earlier run may have failed without calling this callback
        if isinstance(trainer, RadialMixin):
            if trainer._radial_owner is not None:
                trainer._radial_owner.release()
                raise ValueError(
                    f"{type(trainer).__name__} has two RadialCallbacks, but one penalty: give it one, or take one away with "
                    "remove_callback"
                )
            name = type(trainer).__name__
            raise ValueError(f"{name} has the penalty already: use either RadialTrainer or one RadialCallback, not both")
        targets = self._targets_in(state) if self.config.starts_from_initial and state.global_step > 0 else None
        radial: Any = trainer
        self.trainer, self._plain = radial, put_in_front(trainer, RadialMixin, __name__)
        try:
            radial.init_radial(self.config.options(), owner=self)
            radial.begin_radial(None, targets)
        except BaseException:
            self.release()
            raise
        # The state from an older checkpoint may lack an entry for this callback. The next checkpoint needs one.
        states: Any = state.stateful_callbacks
        states.setdefault(type(self).__name__, self.state())

    def _targets_in(self, state: TrainerState) -> dict[str, float]:
        states: Any = state.stateful_callbacks  # declared as a list, but a dict at this point
        stored = states.get(type(self).__name__)
        targets = stored["attributes"].get("targets") if isinstance(stored, dict) else None
        if targets is None:
            raise ValueError(
                "radial_radius='initial': the checkpoint does not hold the radii that its run started from; resume one of a "
                f"run with {type(self).__name__}(radial_radius='initial'), or give the radius as a number"
            )
        return dict(targets)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer is not None:
            self.trainer.finish_pushing()
        self.release()

    def release(self) -> None:
        """Give a radial trainer its old class back."""
        if self.trainer is not None:
            self.state()
            if hasattr(self.trainer, "radial_penalty"):
                self.trainer.end_radial()
            set_class(self.trainer, self._plain)
            self.trainer = None
