"""`GeometryCallback`: the geometry of a model's representations, measured while any `Trainer` trains it.

It measures between steps, on its own probe batch, and changes nothing about training: weights, optimizer, random states and the
trainer's own logs stay the same to the last bit. Every process measures the same probe on the same weights (weights that FSDP 2
has sharded are gathered into a copy). All processes log what the main process found.

It writes two files into the output directory: `geometry.parquet`, one row per number, and `_geometry_probe.safetensors`, the
measured rows. Each checkpoint holds the table up to its step, and the vectors that the next measurement is compared with. A
resumed run therefore continues as if it had not been interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from hf_radial.callbacks.geometry_line import geometry_line
from hf_radial.callbacks.probe import PROBE_FILE, check_batch, make_probe
from hf_radial.geometry.measure import DEFAULT_GROUPS, EXPENSIVE_GROUPS, Measurement, ModularTable, check_groups, measure
from hf_radial.geometry.memory import MEMORY_FILE, History, read_history
from hf_radial.geometry.observe import LossOf
from hf_radial.geometry.reading import TABLE_FILE, Table, read_table
from hf_radial.internals.frames import calling_trainer, resumed_from
from hf_radial.internals.trainer_parts import terminal_left_out
from hf_radial.penalty.functional import is_number
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, check_names
from hf_radial.runs.record import run_folder
from hf_radial.sites.find import Sites, check_patterns, find_sites
from hf_radial.sites.preserve import preserve_random_state
from hf_radial.tasks.checks import flag
from hf_radial.training.sharded import check_sharding, from_main, gathered, skeleton_of
from hf_radial.training.task_loss import task_loss_of

logger = logging.get_logger(__name__)

SECONDS_BETWEEN_LINES = 5.0
WRITING_SHARE = 0.01  # of the time since the table was last written


class GeometryCallback(TrainerCallback):
    """Measures radii, radial energy, spectra, drift, curvature and Fourier structure while any `Trainer` trains.

        Trainer(..., callbacks=[GeometryCallback(every=100)])
        RadialTrainer(..., callbacks=[GeometryCallback(every=200, metrics={"radial": 200, "curvature": 2000})])

    The numbers go to `log_history` and every `report_to` backend as `geometry/<site>/<metric>` and `geometry/<metric>`. Curves
    over frequencies, neurons or singular values are only in the table `geometry.parquet`. It measures before the first step,
    then every `every` steps, and at the end.

    Args:
        probe: the batch to measure on, `{name: tensor}` with labels. Default: `rows` rows of the training set, drawn with
            `seed`, through the trainer's collator.
        every: steps between measurements.
        metrics: groups of `hf_radial.geometry.measure.GROUPS`, or group -> steps between its measurements (multiples of
            `every` make them fall on the same steps). Default: `radial`, `spectrum`, `function` and `drift`. A default group
            that cannot be measured on this trainer's batches is left out with a warning.
        rows: the most rows to draw. Fewer are drawn where they have more than 4,096 positions in the model's main input.
        held_out: a second probe, for confidence and accuracy on held-out rows: a batch, or the name of a data set in
            `eval_dataset`. Default: drawn from `eval_dataset`, or from its first data set that is not called "train".
        seed: random seed of the drawn rows.
        sites: patterns of the sites to measure, as for `find_sites`; by default the penalty's, or all that are found.
        budget: the share of training time that the expensive groups (`proposition`, `curvature`, `fourier`) may take. A
            measurement skips a group that would exceed it; `None` skips none. Each group is measured at least once. With a
            budget, the machine's speed decides which measurements include these groups.
        loss: the task loss of a model and a batch; the trainer's `compute_loss` if not given.
        curvature_probes: random vectors for the Hessian's trace.
        modular: the table of a modular task, for the group `fourier`.
        show: print a line about a measurement where progress is shown, at most one in 5 s.
        train_metric: name of the training accuracy for that line, as `Trainer` logs it.
        held_out_metric: the same for held-out rows.

    Raises:
        ValueError: an argument is out of range. In the trainer, before the first step: there is no site, no loss or no row to
            measure, or weights are sharded in a way that is not supported (FSDP 1, ZeRO-3).
        RuntimeError: it is not called by a `Trainer`.
    """

    def __init__(
        self,
        probe: Mapping[str, Any] | None = None,
        every: int = 400,
        metrics: Sequence[str] | Mapping[str, int] | None = None,
        *,
        rows: int = 512,
        held_out: Mapping[str, Any] | str | None = None,
        seed: int = 0,
        sites: Sequence[str] | None = None,
        budget: float | None = 0.05,
        loss: LossOf | None = None,
        curvature_probes: int = 32,
        modular: ModularTable | None = None,
        show: bool = True,
        train_metric: str = TRAIN_METRIC,
        held_out_metric: str = HELD_OUT_METRIC,
    ) -> None:
        _check_whole(every=every, rows=rows, curvature_probes=curvature_probes)
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1")
        check_patterns(sites)
        check_names(train_metric=train_metric, held_out_metric=held_out_metric)
        flag("show", show)
        function: Any = loss
        if function is not None and not callable(function):
            raise TypeError(f"loss={loss!r} must be a function of the model and a batch that returns the task loss")
        known: Any = modular
        if known is not None and not isinstance(known, ModularTable):
            raise TypeError(f"modular={modular!r} must be a table, such as ModularTable(modulus=97, operation='add')")
        share: Any = budget
        if share is not None and not (is_number(share) and 0 <= share <= 1):
            raise ValueError(f"budget={budget!r} must be a share of training time between 0 and 1, or None for no limit")
        self.chosen = metrics is not None
        if metrics is None:
            metrics = DEFAULT_GROUPS
        check_groups(metrics, modular)
        self.every = dict(metrics) if isinstance(metrics, Mapping) else dict.fromkeys(metrics, every)
        for group, steps in self.every.items():
            _check_whole(**{f"metrics[{group!r}]": steps})
        check_batch("probe", probe)
        if not isinstance(held_out, str):
            check_batch("held_out", held_out)
        self.probe, self.rows, self.held_out, self.seed = probe, rows, held_out, seed
        self.patterns, self.budget, self.loss = sites, budget, loss
        self.curvature_probes, self.modular, self.show = curvature_probes, modular, show
        self.accuracies = {"train": train_metric, "held out": held_out_metric}
        self.table = Table()
        self._skeleton: nn.Module | None = None

    # The run ----------------------------------------------------------------------------------------------------------

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._skeleton = skeleton_of(self._trainer())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self._trainer()
        check_sharding(trainer)
        self._sites: Sites | None = None
        self._probe = make_probe(trainer, self.probe, self.held_out, self.rows, self.seed)
        self._started = self._line_shown = time.perf_counter()
        self._spent = 0.0
        self._cost: dict[str, float] = {}
        self._measured: int | None = None
        self._groups = list(self.every)
        self._history, self.table = History(), Table()
        self._writing, self._written = 0.0, time.perf_counter()
        if state.global_step > 0:
            self._resume(trainer, state)
        elif state.is_world_process_zero:
            (run_folder(trainer) / TABLE_FILE).unlink(missing_ok=True)  # another run's
        if args.should_save:
            drawn_with = "given" if self.probe is not None else str(self.seed)
            self._probe.save(run_folder(trainer) / PROBE_FILE, drawn_with)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._measured is None:  # all callbacks have begun by now
            if state.global_step == 0:
                self._measure(state, self._groups)
            self._measured = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps
        due = [group for group in self._groups if last or state.global_step % self.every[group] == 0]
        if due:
            self._measure(state, due)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self._trainer()
        folder = run_folder(trainer) / f"checkpoint-{state.global_step}"
        if args.should_save and folder.is_dir():
            with _reported(f"the geometry of {folder.name}"):
                self._history.save(folder, self._probe.fingerprint())
                self.table.write(folder / TABLE_FILE)
            self._write(trainer)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # The run was stopped early. `on_train_end` is too late: the best checkpoint may have been loaded by then.
        if "train_runtime" in (kwargs.get("logs") or {}) and self._measured not in (None, state.global_step):
            self._measure(state, self._groups)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._measured is None:
            return  # no step was made
        for (step, epoch), readings in self._history.against_last():
            self.table.add(step, epoch, readings)
        self._write(self._trainer())

    # One measurement --------------------------------------------------------------------------------------------------

    def _measure(self, state: TrainerState, groups: Sequence[str]) -> None:
        trainer, first = self._trainer(), self._measured is None
        self._measured = state.global_step
        elapsed = time.perf_counter() - self._started
        affordable = [group for group in groups if self._affordable(group, elapsed)]
        affordable = from_main([affordable])[0]
        if not affordable:
            return
        found, reason = None, ""
        try:
            with gathered(trainer, self._skeleton) as model:
                if self._sites is None:
                    self._sites = self._find_sites(trainer, model)
                found = measure(
                    model,
                    self._probe.rows,
                    affordable,
                    held_out=self._probe.held_out,
                    sites=list(self._sites),
                    loss=self.loss or task_loss_of(trainer),
                    penalty=getattr(trainer, "radial_penalty", None),
                    learning_rate=_learning_rate(trainer),
                    curvature_probes=self.curvature_probes,
                    modular=self.modular,
                    memory=self._history.memory,
                    seed=self.seed,
                )
        except Exception as error:
            if first:  # nothing is lost yet
                raise
            reason = f"{type(error).__name__}: {error}"
        # A process where it failed takes part too, since the others wait for it here.
        readings, failures, of_main = from_main([found and found.readings, found and found.failures, reason])
        if reason or of_main:
            logger.warning("geometry at step %d was not measured: %s", state.global_step, reason or of_main)
        if of_main:
            return
        self._take_failures(state, failures, first)
        memory = self._history.memory if found is None else found.memory
        self._history.keep((state.global_step, state.epoch), memory)
        self._take(trainer, state, Measurement(readings, memory, failures))

    def _take_failures(self, state: TrainerState, failures: Sequence[str], first: bool) -> None:
        for failure in failures:
            group = failure.partition(":")[0]
            if first and group in self._groups and self.chosen:
                raise ValueError(f"GeometryCallback: metrics: {failure}; leave out {group!r}, or correct this")
            if state.is_world_process_zero:
                logger.warning("geometry at step %d: %s", state.global_step, failure)
            if first and group in self._groups:
                logger.warning("GeometryCallback: %r is not measured in this run", group)
                self._groups.remove(group)

    def _take(self, trainer: Trainer, state: TrainerState, found: Measurement) -> None:
        """Add the measurement to the table, log it, and show a line of it."""
        for reading in found.readings:
            group = reading.metric.removeprefix("seconds_")
            if group in EXPENSIVE_GROUPS:
                self._cost[group] = reading.value
                self._spent += reading.value
        self.table.add(state.global_step, state.epoch, found.readings)
        asked = trainer.control.should_log
        try:
            # Not the trainer's own method: trl's trainers clear their collected statistics with every log.
            with terminal_left_out(trainer):  # these are hundreds of numbers
                Trainer.log(trainer, found.logs())
        finally:
            trainer.control.should_log = asked  # logging clears it, but the step's own log is still to come
        self._show(trainer, state, found)
        now = time.perf_counter()
        if self._writing < WRITING_SHARE * (now - self._written):
            self._write(trainer)

    def _affordable(self, group: str, elapsed: float) -> bool:
        if self.budget is None or group not in EXPENSIVE_GROUPS or group not in self._cost:
            return True
        return self._spent + self._cost[group] <= self.budget * elapsed

    def _find_sites(self, trainer: Trainer, model: nn.Module) -> Sites:
        penalty = getattr(trainer, "radial_penalty", None)
        if self.patterns is None and penalty is not None:
            return penalty.sites
        inputs = {
            name: value[:2] if isinstance(value, Tensor) and value.ndim else value for name, value in self._probe.rows.items()
        }
        inputs.pop("labels", None)
        with preserve_random_state():
            try:
                return find_sites(model, inputs, self.patterns)
            except ValueError:
                return find_sites(model, None, self.patterns)  # some trainers compute the model's arguments from a batch

    # What is kept -----------------------------------------------------------------------------------------------------

    def _write(self, trainer: Trainer) -> None:
        if trainer.args.should_save:
            started = time.perf_counter()
            with _reported("the table of measurements"):
                self.table.write(run_folder(trainer) / TABLE_FILE)
            self._written = time.perf_counter()
            self._writing = self._written - started

    def _resume(self, trainer: Trainer, state: TrainerState) -> None:
        folder = resumed_from(trainer)
        if folder is None or not all((folder / name).is_file() for name in (TABLE_FILE, MEMORY_FILE)):
            if state.is_world_process_zero:
                logger.warning(
                    "GeometryCallback: the checkpoint holds no geometry. The table begins at step %d, and drift is measured "
                    "from there",
                    state.global_step,
                )
            return
        self.table = read_table(folder / TABLE_FILE).up_to(state.global_step)
        history = read_history(folder, self._probe.fingerprint())
        if history is not None:
            self._history = history
        elif state.is_world_process_zero:
            logger.warning(
                "GeometryCallback: the probe is not the one that was measured before step %d, so speeds and drift are "
                "measured from here. To measure the same probe, give the same data, rows=..., seed=... or probe=...",
                state.global_step,
            )

    # For people -------------------------------------------------------------------------------------------------------

    def _show(self, trainer: Trainer, state: TrainerState, found: Measurement) -> None:
        now = time.perf_counter()
        if not (self.show and state.is_world_process_zero) or now - self._line_shown < SECONDS_BETWEEN_LINES:
            return
        for callback in trainer.callback_handler.callbacks:
            bar: Any = getattr(callback, "training_bar", None)
            if bar is not None:
                bar.write(geometry_line(state, found.readings, self.accuracies))
            elif type(callback) is PrinterCallback or hasattr(callback, "training_tracker"):  # the latter: a notebook's table
                print(geometry_line(state, found.readings, self.accuracies), flush=True)
            else:
                continue
            self._line_shown = now
            return

    def _trainer(self) -> Trainer:
        trainer = calling_trainer()
        if trainer is None:
            raise RuntimeError("GeometryCallback must be called by a transformers.Trainer")
        return trainer


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turn an error while writing into a warning: a full disk must not stop training because of a measurement."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        logger.warning("GeometryCallback: %s could not be written: %s", what, error)


def _learning_rate(trainer: Trainer) -> float | None:
    optimizer: Any = trainer.optimizer
    rates = [group["lr"] for group in optimizer.param_groups] if optimizer is not None else []
    return float(max(rates)) if rates else None


def _check_whole(**named: int) -> None:
    for name, value in named.items():
        if type(value) is not int or not 1 <= value < 2**63:
            raise ValueError(f"{name}={value!r:.40} must be a whole number of at least 1")
