"""`RadialCallback`: the penalty in a `Trainer` that is not ours.

    SFTTrainer(..., callbacks=[RadialCallback(radial_lambda=0.01)])

A callback is told when things happen, but it can neither see the micro-batches of a step before they are used, nor change the
loss of a model that returns none (label smoothing, custom losses), nor write into logs before they are reported. All of that
the exact penalty needs. So the callback does one thing: it makes the trainer that runs it a radial one, by putting
`RadialMixin` in front of its class, as `RadialTrainer` has it. Both doors then run the same code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_radial.trainer import RadialMixin
from hf_radial.training_args import RadialConfig


class RadialCallback(TrainerCallback):
    """Adds the hypersphere penalty to the `Trainer` (plain, `Seq2SeqTrainer`, trl's, ...) that it is given to.

    Options, logs and errors are those of `RadialTrainer`. Give it with `callbacks=[...]`, or with `add_callback` before
    `train()`; take it away with `remove_callback`. The trainer's class and the model are as before when `train()` returns. When
    it raises, no callback is told: the hooks stay until the next `train()`, but they collect nothing outside its steps.

    Raises:
        ValueError: an option is out of range; or, in the trainer, the trainer has the penalty already.
    """

    def __init__(
        self,
        radial_lambda: float,
        radial_radius: float | str = "sqrt_d",
        radial_side: str = "both",
        radial_warmup_steps: int = 0,
        radial_sites: Sequence[str] | None = None,
        radial_schedule: str | Callable[[int], float] = "constant",
    ) -> None:
        self.config = RadialConfig(
            radial_lambda, radial_radius, radial_side, radial_warmup_steps, radial_sites, radial_schedule
        )
        self.trainer: Any = None  # the trainer while it trains

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = _calling_trainer()
        if trainer is self.trainer:  # an earlier train() raised, so that it is a radial trainer still and has begun as one
            return
        if isinstance(trainer, RadialMixin):
            raise ValueError(
                f"{type(trainer).__name__} has the penalty already: use either RadialTrainer or one RadialCallback, not both"
            )
        if self.config.radial_radius == "initial" and state.global_step > 0:
            raise ValueError(
                "radial_radius='initial' cannot be resumed through RadialCallback: the radii that the run started from are "
                "unknown here; use RadialTrainer, or give the radius as a number"
            )
        plain = type(trainer)
        radial: Any = trainer
        radial.__class__ = type(f"Radial{plain.__name__}", (RadialMixin, plain), {"__module__": __name__})
        self.trainer, self._plain = radial, plain
        try:
            radial.init_radial(self.config.options(), owner=self)
            radial.begin_radial(None)
        except BaseException:
            radial.__class__, self.trainer = plain, None
            raise

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer is not None:
            self.trainer.radial_penalty.detach()
            self.trainer.__class__, self.trainer = self._plain, None


def _calling_trainer() -> Trainer:
    """The `Trainer` whose method is running. Callbacks are handed its parts, but not the trainer itself."""
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError("RadialCallback must be called by a transformers.Trainer")
