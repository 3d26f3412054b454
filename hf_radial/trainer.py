"""`RadialTrainer`: a `Trainer` plus one argument. The penalty's normalisation, logging and resuming inside a `Trainer`.

The definition. With `V` the vectors of the whole effective batch (all micro-batches of an optimizer step, on all ranks) that
are not padding, the loss that is minimised is

    L = L_task + radial_lambda * sum over sites of  1/|V| * sum over h in V of (||h|| - R)^2 / d

and its gradient does not depend on how the batch was split. `Trainer` scales its loss in several ways (by accumulation steps,
by tokens, by ranks), depending on the model, its version and its options. The penalty stays out of all that: it is added to
the loss at the last moment, in `accelerator.backward`, with a weight that is right for the sum over micro-batches and the mean
over ranks that follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from hf_radial.regularizer import RadialPenalty, count_vectors
from hf_radial.run_record import write_run_record
from hf_radial.training_args import resolve_config

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object

logger = logging.get_logger(__name__)

TARGETS_FILE = "radial_targets.json"
CALIBRATION_ROWS = 64


class RadialMixin(_Base):
    """The penalty for any class derived from `Trainer`: `class RadialSFTTrainer(RadialMixin, SFTTrainer): ...`.

    Args:
        radial_lambda: weight of the penalty; 0 trains exactly as the plain trainer does, and logs the radii.
        radial_radius: target radius: a number, `"sqrt_d"` (the paper's) or `"initial"`, each site's mean radius on the first
            rows of the training set before the first step.
        radial_side: `"both"` (the paper's) or `"above"`.
        radial_warmup_steps: optimizer steps over which `radial_lambda` grows linearly from 0.
        radial_sites: module name patterns to penalise instead of the known places, see `hf_radial.sites.find_sites`.

    Options that are left out are taken from `args` if it is a `RadialArguments`. Everything else is the base class's.

    Logged with every training `loss` (what is minimised), as means over the logging window and over ranks: `task_loss`,
    `radial_penalty` (sum over sites, without `radial_lambda`), `radial_lambda`, and for each site `radius/<site>` beside
    `radius_target/<site>`. A step whose loss is NaN shows in them, also where `logging_nan_inf_filter` hides it from `loss`.

    Raises:
        ValueError: an option is out of range, no site is found, or the set-up would make the penalty wrong (reentrant gradient
            checkpointing, `torch.nn.DataParallel`).
        RuntimeError: in the first step, if the trainer's own `training_step` does not use `accelerator.backward`.
    """

    def __init__(
        self,
        *args: Any,
        radial_lambda: float | None = None,
        radial_radius: float | str | None = None,
        radial_side: str | None = None,
        radial_warmup_steps: int | None = None,
        radial_sites: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        options = {
            "radial_lambda": radial_lambda,
            "radial_radius": radial_radius,
            "radial_side": radial_side,
            "radial_warmup_steps": radial_warmup_steps,
            "radial_sites": radial_sites,
        }
        self.init_radial(options)

    def init_radial(self, options: dict[str, Any], owner: TrainerCallback | None = None) -> None:
        """Set the penalty up on a trainer whose own `__init__` is through; `owner` is the callback that brought it, if any."""
        config = resolve_config(self.args, **options)
        for name in ("activation_checkpointing", "gradient_checkpointing"):  # its name from transformers 5.2x on, and before
            kwargs = getattr(self.args, f"{name}_kwargs", None)
            if getattr(self.args, name, None) and isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
                raise ValueError(
                    f"{name}_kwargs={{'use_reentrant': True}} would train without the penalty's gradient; "
                    "use {'use_reentrant': False}"
                )
        if self.args.n_gpu > 1:
            raise ValueError(
                f"torch.nn.DataParallel over {self.args.n_gpu} GPUs is not supported: start one process per GPU with "
                "`accelerate launch` or `torchrun`, or show this process one GPU with CUDA_VISIBLE_DEVICES=0"
            )
        self._radial_options, self._radial_owner = options, owner
        self.radial_config = config
        self.run_facts: dict[str, Any] = getattr(self, "run_facts", {})
        self.radial_penalty = self._make_penalty()
        self._radial_window: _Window | None = None

    def _make_penalty(self) -> RadialPenalty:
        config = self.radial_config
        if self.model is None:
            raise ValueError("the trainer has no model")
        return RadialPenalty(
            self.model,
            config.radial_lambda,
            radius=config.radial_radius,
            side=config.radial_side,
            sites=config.radial_sites,
        )

    # One run ----------------------------------------------------------------------------------------------------------

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: TrainingArguments | None = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        owner = self._radial_owner
        run: AbstractContextManager[None] = self._radial_run(resume_from_checkpoint)
        if owner is not None and owner not in self.callback_handler.callbacks:  # taken away after a run that failed
            self.radial_penalty.detach()
            self._radial_window = None
            run = nullcontext()
        with run:
            return super()._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)

    @contextmanager
    def _radial_run(self, resume_from_checkpoint: str | None) -> Iterator[None]:
        self.begin_radial(resume_from_checkpoint)
        try:
            yield
        finally:
            self.radial_penalty.detach()  # the model is as it was

    def begin_radial(self, resume_from_checkpoint: str | None) -> None:
        """Attach the penalty to the model, set its targets and write the run's record."""
        config = resolve_config(self.args, **self._radial_options)
        # A hyperparameter search sets `args` anew for every trial, and `model_init` makes a new model.
        if config != self.radial_config or self.radial_penalty.model is not self.model:
            self.radial_penalty.detach()
            self.radial_config = config
            self.radial_penalty = self._make_penalty()
        penalty = self.radial_penalty
        if self.radial_config.radial_radius == "initial":
            self._set_initial_targets(resume_from_checkpoint)
        self._radial_window = _Window(len(penalty.sites), self.args.device)
        penalty.detach()  # a run that failed may have left it attached, where a callback could not clean up
        penalty.attach()
        penalty.paused = True  # but within a training step
        if self._is_compiled():
            torch.compiler.reset()  # what was compiled for the model without hooks would be used again, hooks or not
        logger.info("%r\n%s", penalty, penalty.table())
        if self.args.should_save:
            write_run_record(self)

    def _is_compiled(self) -> bool:
        if self.accelerator.state.dynamo_plugin.backend.value != "NO":  # `torch_compile=True`, or the launcher's
            return True
        modules = list(self.radial_penalty.model.modules())
        return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules)

    def _set_initial_targets(self, resume_from_checkpoint: str | None) -> None:
        if resume_from_checkpoint is not None:
            file = Path(resume_from_checkpoint) / TARGETS_FILE
            if not file.is_file():
                raise ValueError(
                    f"radial_radius='initial': {file} is missing, so the radii that the run started from are unknown; "
                    "resume a checkpoint of a run with radial_radius='initial', or give the radius as a number"
                )
            self.radial_penalty.targets.update(json.loads(file.read_text()))
            return
        dataset: Any = self.train_dataset
        if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ValueError("radial_radius='initial' needs a train_dataset with rows to index; give the radius as a number")
        collate = self._get_collator_with_removed_columns(self.data_collator, description="calibration")
        with torch.random.fork_rng(devices=[]):  # a collator may draw (masked language modelling does)
            # The same rows on every rank, so the same targets on every rank.
            batch = self._prepare_inputs(collate([dataset[i] for i in range(min(CALIBRATION_ROWS, len(dataset)))]))
        device = next(self.radial_penalty.model.parameters()).device
        self.radial_penalty.calibrate(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save and self.radial_config.radial_radius == "initial":
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            # Before the base class writes `trainer_state.json`, with which a checkpoint is complete.
            (folder / TARGETS_FILE).write_text(json.dumps(self.radial_penalty.targets, indent=2))
        super()._save_checkpoint(model, trial)

    # One step ---------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As the base class; then set `lambda` for the step and count its vectors, over all micro-batches and ranks."""
        batch_samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batch_samples and self._radial_window is not None:
            count = sum(self._count_vectors(batch) for batch in batch_samples)
            self._vectors_in_step = self.accelerator.reduce(count, reduction="sum")
            self._step_is_split = len(batch_samples) * self.accelerator.num_processes > 1
            self.radial_penalty.radial_lambda = self.radial_config.lambda_at(self.state.global_step)
            self._radial_window.steps += 1
            self._radial_window.radial_lambda += self.radial_penalty.radial_lambda
        return batch_samples, num_items_in_batch

    def _count_vectors(self, batch: Any) -> Tensor:
        count = count_vectors(batch, getattr(self.model, "main_input_name", "input_ids"))
        return count.to(self.args.device, torch.float32)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As the base class, with the penalty of this micro-batch added in the backward pass and in the loss returned."""
        window = self._radial_window
        if window is None:
            return super().training_step(model, inputs, *args, **kwargs)
        penalty, accelerator = self.radial_penalty, self.accelerator
        penalty.reset()
        # This micro-batch's part of the effective batch: the parts of all micro-batches and ranks add up to one.
        vectors = self._count_vectors(inputs)
        share = vectors / self._vectors_in_step.clamp(min=1)
        weighted: Tensor | None = None

        def backward(loss: Tensor, **backward_kwargs: Any) -> None:
            nonlocal weighted
            sums = penalty.take()
            means = share * sums.mean_penalty()
            window.add(means.detach(), sums.radius, sums.count)
            if self._step_is_split:
                window.compare(sums.count, vectors)
            # Gradients are averaged over ranks: undo that, the parts are to be summed.
            term = (penalty.radial_lambda * accelerator.num_processes * means.sum()).to(loss.device)
            weighted = term.detach()
            # Not even zero is added: without the penalty the graph is the plain trainer's, bit for bit.
            plain_backward(loss + term if penalty.radial_lambda > 0 else loss, **backward_kwargs)

        plain_backward = accelerator.backward
        accelerator.backward = backward
        penalty.paused = False
        try:
            with _compiled_checkpoints_may_collect():
                task_loss = super().training_step(model, inputs, *args, **kwargs)
        finally:
            del accelerator.backward  # the class's own method again
            penalty.paused = True
            penalty.reset()
        if weighted is None:
            raise RuntimeError(
                f"{type(self).__name__}.training_step did not call self.accelerator.backward, so the penalty never reached the "
                "gradient; use accelerator.backward(loss) in it, or RadialPenalty in a loop of your own"
            )
        window.task_loss += task_loss
        return task_loss + weighted if penalty.radial_lambda > 0 else task_loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the base class; a log of the training `loss` gains the task loss, the penalty and the radii."""
        if "loss" in logs and self._radial_window is not None and self._radial_window.steps:
            rest = {name: logs.pop(name) for name in list(logs) if name != "loss"}
            logs.update(self._radial_window.drain(self))
            logs.update(rest)
        super().log(logs, *args, **kwargs)


def _compiled_checkpoints_may_collect() -> AbstractContextManager[Any]:
    """Let `torch.compile` take a checkpointed block that has a site as one graph.

    It asks whether what a block does besides computing may be left out of the replay. Ours must be: a replay is not counted.
    Otherwise the block would not be compiled at all, as it is not where torch does not know the question.
    """
    import torch._dynamo.config as settings

    name = "skip_fwd_side_effects_in_bwd_under_checkpoint"
    return settings.patch({name: True}) if hasattr(settings, name) else nullcontext()


class _Window:
    """What is summed on the device between two logs, so that no step waits for the host."""

    def __init__(self, sites: int, device: torch.device) -> None:
        self.sites, self.device = sites, device
        self.clear()

    def clear(self) -> None:
        self.steps = 0
        self.radial_lambda = 0.0
        self.task_loss = torch.zeros((), device=self.device)
        self.penalty, self.radius, self.count = (torch.zeros(self.sites, device=self.device) for _ in range(3))
        # Vectors that a site saw for each that was counted in the batch: the least and the most over micro-batches.
        self.least, self.most = (torch.full((self.sites,), ratio, device=self.device) for ratio in (torch.inf, 0.0))

    def add(self, penalty: Tensor, radius: Tensor, count: Tensor) -> None:
        self.penalty += penalty.to(self.device)
        self.radius += radius.to(self.device)
        self.count += count.to(self.device)

    def compare(self, seen: Tensor, counted: Tensor) -> None:
        """The micro-batches of a step are weighted as they were counted: the model must have seen all in proportion."""
        seen, counted = seen.to(self.device), counted.to(self.device)
        self.least = torch.where(counted > 0, torch.minimum(self.least, seen / counted), self.least)
        self.most = torch.where(counted > 0, torch.maximum(self.most, seen / counted), self.most)

    def drain(self, trainer: RadialMixin) -> dict[str, float]:
        """Means over the window and over ranks; the window is empty afterwards. Every rank must call it.

        Raises:
            RuntimeError: the micro-batches were not weighted as the vectors that the model saw of them.
        """
        compared = (self.least < torch.inf).float()
        least = torch.where(compared > 0, self.least, self.most)
        middle = (least + self.most) / 2
        apart = [compared, middle, middle.square(), self.most - least]
        packed = torch.cat([self.task_loss.reshape(1), self.penalty, self.radius, self.count, *apart])
        task_loss, *rest = trainer.accelerator.reduce(packed, reduction="sum").tolist()
        n, steps, penalty = self.sites, self.steps, trainer.radial_penalty
        mean_lambda = self.radial_lambda / steps
        self.clear()
        ratios = (rest[i * n : (i + 1) * n] for i in range(3, 7))
        for site, ranks, middle_sum, squares, spread in zip(penalty.sites, *ratios, strict=True):
            mean = middle_sum / max(ranks, 1)
            if spread > 1e-3 * mean * ranks or squares / max(ranks, 1) - mean**2 > 1e-5 * mean**2:
                raise RuntimeError(
                    f"the vectors that {site.name!r} saw are not in proportion to those of the batches, so the mean over a "
                    "step's micro-batches or processes would be wrong: train in one process without gradient accumulation, "
                    "or name sites that see every vector of a batch equally often with radial_sites"
                )
        logs = {
            "task_loss": task_loss / steps / trainer.accelerator.num_processes,
            "radial_penalty": sum(rest[:n]) / steps,
            "radial_lambda": mean_lambda,
        }
        for site, radius, count in zip(penalty.sites, rest[n : 2 * n], rest[2 * n : 3 * n], strict=True):
            logs[f"radius/{site.name}"] = radius / max(count, 1)
            logs[f"radius_target/{site.name}"] = penalty.targets[site.name]
        return logs


class RadialTrainer(RadialMixin, Trainer):
    __doc__ = f"""A `Trainer` whose loss has the hypersphere penalty of arXiv 2606.32000 (Eq. 3).

        trainer = RadialTrainer(model=model, args=args, radial_lambda=0.05, train_dataset=train_dataset)

    {(RadialMixin.__doc__ or "").split("Args:", 1)[-1]}"""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write `README.md` in the output directory from the run's record and log; takes the base class's arguments."""
        from hf_radial.hub.model_card import write_model_card

        if self.is_world_process_zero():
            write_model_card(self, *args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, together with `trainer_state.json`: the log that the card was made from."""
        self.save_state()
        return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # A run that dies must not leave a repository without a card.
        self.create_model_card(model_name=Path(str(self.args.hub_model_id or self.args.output_dir)).name)
        super()._push_from_checkpoint(checkpoint_folder)
