"""`RadialCallback`: the penalty in a `Trainer` that is not ours.

    SFTTrainer(..., callbacks=[RadialCallback(radial_lambda=0.01)])

A callback is told when things happen, but it can neither see the micro-batches of a step before they are used, nor change the
loss of a model that returns none (label smoothing, custom losses), nor write into logs before they are reported. All of that
the exact penalty needs. So the callback does one thing: it makes the trainer that runs it a radial one, by putting
`RadialMixin` in front of its class, as `RadialTrainer` has it. Both doors then run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_radial.penalty.config import RadialConfig
from hf_radial.training.calling import calling_trainer
from hf_radial.training.mixin import RadialMixin

FUNCTION = "function "  # before the name of a schedule that a checkpoint cannot hold


class RadialCallback(TrainerCallback, ExportableState):
    """Adds the hypersphere penalty to the `Trainer` (plain, `Seq2SeqTrainer`, trl's, ...) that it is given to.

    Options, logs and errors are those of `RadialTrainer`. Give it with `callbacks=[...]`, or with `add_callback` before
    `train()`; take it away with `remove_callback`. The trainer's class and the model are as before when `train()` returns or
    raises. (Only if another callback raises in `on_train_begin` or `on_epoch_begin` are hooks left until the next `train()`;
    they collect nothing.)

    Its options and the targets of `radial_radius="initial"` are part of every checkpoint. A run that is resumed has the options
    given here, or, with `restore_callback_states_from_checkpoint=True`, the checkpoint's.

    A callback cannot choose the checkpoint: in any trainer but `RadialTrainer`, `train(resume_from_checkpoint=True)` takes the
    newest folder, even if a killed process left it incomplete. Then give `resume_from_checkpoint` the path that
    `hf_radial.runs.resume.last_complete_checkpoint(output_dir)` returns.

    Raises:
        ValueError: an option is out of range; or, in the trainer, it has the penalty already, or the checkpoint to resume from
            lacks what the options need.
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
        self.targets: dict[str, float] | None = None  # of radius="initial", once they are known
        self.trainer: Any = None  # the trainer while it trains

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of this callback."""
        penalty = getattr(self.trainer, "radial_penalty", None)
        if self.config.radial_radius == "initial" and penalty is not None and penalty.targets:
            self.targets = dict(penalty.targets)  # they may have come with the first batch
        args = self.config.to_dict()
        if callable(self.config.radial_schedule):
            args["radial_schedule"] = FUNCTION + self.config.schedule_name
        return {"args": args, "attributes": {"targets": self.targets}}

    def _function_named(self, name: str) -> Callable[[int], float]:
        """The schedule of a checkpoint: the same function, if the callback that this one replaces was given it.

        A name from a file is not imported, and that of a lambda, of a function within a function or of a class does not tell
        which function it was.
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
        self.release()  # where an earlier run failed and this callback was not told
        if isinstance(trainer, RadialMixin):
            name = type(trainer).__name__
            if trainer._radial_owner is not None:
                trainer._radial_owner.release()
            raise ValueError(f"{name} has the penalty already: use either RadialTrainer or one RadialCallback, not both")
        targets = self._targets_in(state) if self.config.radial_radius == "initial" and state.global_step > 0 else None
        plain = type(trainer)
        radial: Any = trainer
        radial.__class__ = type(f"Radial{plain.__name__}", (RadialMixin, plain), {"__module__": __name__})
        self.trainer, self._plain = radial, plain
        try:
            radial.init_radial(self.config.options(), owner=self)
            radial.begin_radial(None, targets)
        except BaseException:
            self.release()
            raise
        # The state of a checkpoint from before this callback has no place for it, and the next checkpoint would not find one.
        states: Any = state.stateful_callbacks
        states.setdefault(type(self).__name__, self.state())

    def _targets_in(self, state: TrainerState) -> dict[str, float]:
        states: Any = state.stateful_callbacks  # declared as a list, but a dict by now
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
        """Make the trainer, if it is a radial one, what it was before."""
        if self.trainer is not None:
            self.state()
            if hasattr(self.trainer, "radial_penalty"):
                self.trainer.end_radial()
            self.trainer.__class__, self.trainer = self._plain, None
