"""`GrokkingCallback` announces fit and onset while a run trains, and can stop the run when it has generalised.

It reads everything from the trainer's `log_history`, with the definitions of `hf_radial.runs.onset`. It has no other state. A
checkpoint holds the log, so a resumed run announces and does the same as an unbroken one, whatever
`restore_callback_states_from_checkpoint` is.

How `Trainer` treats the log of a resumed run:

- It takes the checkpoint's log, which ends at the checkpoint's step. Later evaluations are once in the log. A `report_to`
  backend that the interrupted run already wrote to has them twice, like all metrics.
- With `eval_on_start` it evaluates the checkpoint again. That step is then twice in the log, and counts once.
- It looks at `should_training_stop` only after a step, so a run that is resumed where it had stopped would make one more step.
  This callback gives it no batch for that step. At the end of an epoch, transformers then warns that the epoch has no sample.
"""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from hf_radial.internals.frames import calling_trainer
from hf_radial.runs.onset import (
    HELD_OUT_METRIC,
    TRAIN_METRIC,
    check_metrics,
    check_names,
    check_threshold,
    curve,
    fit_step,
    onset_step,
    summarise,
)

logger = logging.get_logger(__name__)


class GrokkingCallback(TrainerCallback):
    """Announces when a run fits its training rows and when it generalises, and can stop it then. For any `Trainer`.

        Trainer(
            eval_dataset={"train": some_of_the_train_rows, "validation": held_out},
            callbacks=[GrokkingCallback("eval_train_accuracy", "eval_validation_accuracy", stop_evaluations=3)],
            ...
        )

    It logs each of these once, at the evaluation where it happens, to `log_history` and every `report_to` backend:
    `grokking/fit_step`, and `grokking/onset_step` where held-out accuracy rises to the threshold. If the accuracy falls below
    it later, that was no onset: `grokking/onset_lost_step` says where it fell, and the next rise is announced again. The main
    process writes the same to the logger at level info.

    Args:
        train_metric: name of the accuracy on training rows, as `Trainer` logs it. (What trl's trainers log by themselves, like
            `eval_mean_token_accuracy`, has one name for all splits; there, give `compute_metrics`.)
        held_out_metric: the same for held-out rows.
        threshold: held-out accuracy of the onset, a fraction of 1.
        fit_threshold: training accuracy of the fit.
        stop_evaluations: stop after so many evaluations in a row at or above `stop_threshold`; `None`: never. A run that is
            resumed where this already holds ends at once. Leave it out, or raise it, to continue.
        stop_threshold: held-out accuracy for that; `threshold` if it is not given.
        prefix: in front of the logged names. Two of these callbacks on one trainer need different prefixes.

    Raises:
        ValueError: an argument is out of range. In the trainer: another one has the same prefix; the first evaluation of a run
            lacks one of the metrics (the message names those it has); or a value is above 1.
        RuntimeError: it is not called by a `Trainer`.
    """

    def __init__(
        self,
        train_metric: str = TRAIN_METRIC,
        held_out_metric: str = HELD_OUT_METRIC,
        threshold: float = 0.9,
        fit_threshold: float = 0.99,
        stop_evaluations: int | None = None,
        stop_threshold: float | None = None,
        prefix: str = "grokking",
    ) -> None:
        check_names(train_metric=train_metric, held_out_metric=held_out_metric)
        before: Any = prefix
        if not isinstance(before, str) or not before:
            raise ValueError(f"prefix={prefix!r} must be a text that is not empty, such as 'grokking'")
        if train_metric == held_out_metric:
            raise ValueError(f"train_metric and held_out_metric are both {train_metric!r}; name one metric of each split")
        check_threshold(threshold=threshold)
        check_threshold(fit_threshold=fit_threshold)
        if stop_threshold is not None:
            check_threshold(stop_threshold=stop_threshold)
            if stop_evaluations is None:
                raise ValueError(f"stop_threshold={stop_threshold} needs stop_evaluations: how many in a row must reach it")
        if stop_evaluations is not None and (type(stop_evaluations) is not int or stop_evaluations < 1):
            raise ValueError(f"stop_evaluations={stop_evaluations} must be a whole number of at least 1, or None to never stop")
        self.train_metric, self.held_out_metric = train_metric, held_out_metric
        self.threshold, self.fit_threshold = threshold, fit_threshold
        self.stop_evaluations = stop_evaluations
        self.stop_threshold = threshold if stop_threshold is None else stop_threshold
        self.prefix = prefix
        self._logged = {what: f"{prefix}/{what}_step" for what in ("fit", "onset", "onset_lost")}
        self._log: list[dict[str, Any]] = []
        self._own: list[dict[str, Any]] = []  # the entries that matter here, of the first `_read` of the log
        self._read = 0
        self._evaluated = self._checked = False

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `hf_radial.runs.onset.summarise` says of the log so far, with `threshold` and 99 %.

        `None` until both metrics have been evaluated.
        """
        if not all(any(name in logs for logs in self._log) for name in (self.train_metric, self.held_out_metric)):
            return None
        return summarise(self._log, self.train_metric, self.held_out_metric, (self.threshold, 0.99), self.fit_threshold)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self._trainer()
        for other in trainer.callback_handler.callbacks:
            if isinstance(other, GrokkingCallback) and other is not self and other.prefix == self.prefix:
                raise ValueError(f"two GrokkingCallbacks have the prefix {self.prefix!r}; give one of them another prefix")
        self._evaluated = self._checked = False
        self._read_log(state)
        self._give_batches(trainer)
        if args.eval_strategy == IntervalStrategy.NO and state.is_world_process_zero:
            logger.warning(
                "eval_strategy='no': GrokkingCallback sees nothing, unless another callback asks for evaluations; "
                "set eval_strategy and eval_steps"
            )
        if state.global_step > 0 and self._has_generalised():
            self._say(state, f"step {state.global_step} is where the run had stopped: no further step is made")
            control.should_training_stop = True
            trainer.get_batch_samples = self._no_batches  # type: ignore[method-assign]

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self._trainer()
        if not trainer.is_in_train:
            return  # its weights and rows may be any
        self._read_log(state)
        # One evaluation is several of these events, one per split. Only after the last is it clear whether a metric is missing.
        self._evaluated = self._evaluated or any(name.startswith("eval_") for name in kwargs.get("metrics") or {})
        self._announce(trainer, state)
        if self._has_generalised() and not control.should_training_stop:
            self._say(
                state,
                f"{self.held_out_metric} was at {self.stop_threshold:g} or above {self.stop_evaluations} times in a row: stop",
            )
            control.should_training_stop = True

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._evaluated and not self._checked:
            check_metrics(self._log, train_metric=self.train_metric, held_out_metric=self.held_out_metric)
            self._checked = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._give_batches(self._trainer())
        try:
            self.on_step_begin(args, state, control)
        except ValueError as missing:  # a trained model must not be lost for this
            logger.warning("%s", missing)

    def _read_log(self, state: TrainerState) -> None:
        """Read the new entries of the log only, so that the cost of an evaluation does not grow with the log."""
        if self._log is not state.log_history:
            self._log, self._own, self._read = state.log_history, [], 0
        names = {self.train_metric, self.held_out_metric, *self._logged.values()}
        self._own += [logs for logs in self._log[self._read :] if not names.isdisjoint(logs)]
        self._read = len(self._log)

    def _announce(self, trainer: Trainer, state: TrainerState) -> None:
        """Log what the log does not have yet."""
        fit_said, onset_said = None, None
        for logs in self._own:
            fit_said = logs.get(self._logged["fit"], fit_said)
            onset_said = None if self._logged["onset_lost"] in logs else logs.get(self._logged["onset"], onset_said)
        if fit_said is None and curve(self._own, self.train_metric)[0]:
            fit = fit_step(self._own, self.train_metric, self.fit_threshold)
            if fit is not None:
                self._say(state, f"{self.train_metric} reached {self.fit_threshold:g} at step {fit}")
                trainer.log({self._logged["fit"]: fit})
        if curve(self._own, self.held_out_metric)[0]:
            onset = onset_step(self._own, self.held_out_metric, self.threshold)
            if onset is None and onset_said is not None:
                self._say(state, f"{self.held_out_metric} fell below {self.threshold:g}: step {onset_said} was no onset")
                trainer.log({self._logged["onset_lost"]: state.global_step})
            elif onset is not None and onset != onset_said:
                self._say(state, f"{self.held_out_metric} is at or above {self.threshold:g} from step {onset} on")
                trainer.log({self._logged["onset"]: onset})

    def _has_generalised(self) -> bool:
        if self.stop_evaluations is None:
            return False
        last = curve(self._own, self.held_out_metric)[1][-self.stop_evaluations :]
        return len(last) == self.stop_evaluations and all(value >= self.stop_threshold for value in last)

    def _say(self, state: TrainerState, text: str) -> None:
        if state.is_world_process_zero:
            logger.info("%s: %s", self.prefix, text)

    def _trainer(self) -> Trainer:
        trainer = calling_trainer()
        if trainer is None:
            raise RuntimeError("GrokkingCallback must be called by a transformers.Trainer")
        return trainer

    def _no_batches(self, *args: Any, **kwargs: Any) -> tuple[list[Any], None]:
        """Replaces `Trainer.get_batch_samples` once: without a batch there is no step, and the loop sees that it should end."""
        self._give_batches(self._trainer())
        return [], None

    def _give_batches(self, trainer: Trainer) -> None:
        if vars(trainer).get("get_batch_samples") == self._no_batches:
            del trainer.get_batch_samples  # the class's own method again
