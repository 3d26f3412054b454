"""One run of a sweep, its options, and their checks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import SchedulerType, speed_metrics

from hf_radial.runs.record import RUN_FILE
from hf_radial.safe_files import write_text
from hf_radial.tasks.tensor_rows import TensorRows
from hf_radial.training.trainer import RadialTrainer

# What members may differ in.
SWEPT_OF_PENALTY = ("radial_lambda", "radial_radius", "radial_side", "radial_sites")
SWEPT = {"seed", "data_seed", "learning_rate", "weight_decay", "warmup_steps", "adam_beta2", "max_grad_norm", *SWEPT_OF_PENALTY}


NAMES = {"output_dir", "run_name", "logging_dir"}


# Options that must have this value, since the shared step does not support others.
REQUIRED: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "fp16": False,
    "bf16": False,
    "torch_compile": False,
    "label_smoothing_factor": 0.0,
    "neftune_noise_alpha": None,
    "load_best_model_at_end": False,
    "auto_find_batch_size": False,
    "push_to_hub": False,
    "train_sampling_strategy": "random",
    "dataloader_drop_last": False,
    "deepspeed": None,
    "resume_from_checkpoint": None,
    "intervention": None,
}


# Their schedule multiplies each member's learning rate by the same factor.
SCHEDULERS = [SchedulerType(n) for n in ("constant", "constant_with_warmup", "linear", "cosine", "inverse_sqrt")]


class SweepMember(RadialTrainer):
    """One run of a sweep: a `RadialTrainer` that keeps its own log and files, while `train_together` makes its steps.

    It takes the arguments of a `RadialTrainer`. Its callbacks get the events of the begin, of logs and evaluations, and of the
    end, but not those of steps.

    Attributes:
        failure: why the run ended early, if its loss became NaN or infinite; else `None`.
        logit_temperature: what the logits are divided by; set it before training.
        embedding_rate: learning rate of the embedding, as a multiple of that of the rest; set it before training.
        embedding_weight_decay: weight decay of the embedding; `None` for that of the rest. Set it before training.
    """

    logit_temperature: float = 1.0
    embedding_rate: float = 1.0
    embedding_weight_decay: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failure: str | None = None
        for callback in (PrinterCallback, ProgressCallback):  # one bar for all members
            self.remove_callback(callback)

    def begin_run(self, max_steps: int, together: int) -> dict[str, float]:
        """Write the run's record and tell the callbacks; returns the target radius of each of its sites by name."""
        self.state.max_steps, self.state.num_train_epochs = max_steps, math.ceil(self.args.num_train_epochs)
        self.state.train_batch_size = self.args.train_batch_size
        self.state.compute_steps(self.args, max_steps)
        self.begin_radial(None)
        if self.radial_penalty is None:
            raise ValueError(
                f"{type(self.model).__name__} has no sites for the penalty, so that it cannot be measured in a sweep"
            )
        targets = {site.name: self.radial_penalty.targets[site.name] for site in self.radial_penalty.sites}
        self.end_radial()
        file = Path(str(self.args.output_dir)) / RUN_FILE
        record = json.loads(file.read_text())
        record["sweep"] = {"trained": "together with others, by hf_radial.sweep.train_together", "members": together}
        write_text(file, json.dumps(record, indent=2) + "\n")
        self.is_in_train, self.begun = True, time.time()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        return targets

    def at_step(self, step: int, epoch: float) -> None:
        """Set the step and epoch of the next log."""
        self.state.global_step, self.state.epoch = step, epoch

    def note_evaluation(self, metrics: dict[str, float]) -> None:
        """Log one evaluation and tell the callbacks."""
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)

    def end_run(self, state_dict: Mapping[str, Tensor], train_loss: float, rows: int) -> None:
        """Store the last weights, log the whole run and tell the callbacks."""
        model: Any = self.model
        model.load_state_dict(state_dict)
        steps = self.state.global_step
        # Wall-clock time of the whole sweep.
        logs = speed_metrics("train", self.begun, num_samples=rows, num_steps=steps)
        size = (rows, model.config.num_operands)
        self.state.total_flos = float(self.floating_point_ops({"input_ids": torch.empty(size, device="meta")}))
        self.log({**logs, "total_flos": self.state.total_flos, "train_loss": train_loss})
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False


def _sizes(splits: Any) -> Any:
    return {name: len(rows) for name, rows in splits.items()} if isinstance(splits, dict) else None


def check_members(members: Sequence[SweepMember]) -> None:
    """Raise unless these runs can be trained together; see `train_together`."""
    if not members:
        raise ValueError("members is empty; give at least one SweepMember")
    first = members[0]
    args: Any = first.args
    for name, wanted in REQUIRED.items():
        value = getattr(args, name, wanted)
        if value != wanted and not (wanted is None and value in ("", [], {})):
            raise ValueError(f"{name}={value!r} is not supported in a sweep; set it to {wanted!r}, or train run by run")
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if getattr(args, name, False):
            raise ValueError(f"{name}={getattr(args, name)!r} is not supported in a sweep, and would not help: leave it out")
    if args.world_size > 1:
        raise ValueError(
            f"a sweep runs in one process, but there are {args.world_size}: start it with `python`, not a launcher"
        )
    if not args.accelerator_config.use_seedable_sampler:
        raise ValueError("accelerator_config: use_seedable_sampler=False is not supported in a sweep; leave it out")
    if args.lr_scheduler_type not in SCHEDULERS or args.lr_scheduler_kwargs:
        raise ValueError(
            f"lr_scheduler_type={SchedulerType(args.lr_scheduler_type).value!r} with lr_scheduler_kwargs="
            f"{args.lr_scheduler_kwargs!r} is not supported in a sweep; choose one of "
            f"{', '.join(repr(kind.value) for kind in SCHEDULERS)} without more options"
        )
    if Trainer.get_optimizer_cls_and_kwargs(args)[0] is not torch.optim.AdamW:
        raise ValueError(f"optim={args.optim.value!r} is not supported in a sweep; choose 'adamw_torch_fused' or 'adamw_torch'")
    splits: Any = first.eval_dataset
    if not isinstance(first.train_dataset, TensorRows):
        raise TypeError(f"train_dataset must be TensorRows in a sweep, but is {type(first.train_dataset).__name__}")
    if not isinstance(splits, dict) or not all(isinstance(rows, TensorRows) for rows in splits.values()):
        raise TypeError("eval_dataset must be a dictionary of TensorRows in a sweep, name of a split -> its rows")
    for member in members[1:]:
        if not isinstance(member.train_dataset, TensorRows):
            raise TypeError(f"train_dataset must be TensorRows in a sweep, but is {type(member.train_dataset).__name__}")
        own: Any = member.eval_dataset
        if len(member.train_dataset) != len(first.train_dataset) or _sizes(own) != _sizes(splits):
            raise ValueError(
                "members have a train_dataset or eval_dataset of different sizes; give all of them the same objects, or "
                "draws of one size"
            )
        same: dict[str, Any] = {name: getattr(first.radial_config, name) for name in SWEPT_OF_PENALTY}
        if replace(member.radial_config, **same) != first.radial_config:
            raise ValueError(f"members differ in the penalty's options; only {', '.join(SWEPT_OF_PENALTY)} may differ")
        ours, theirs = first.args.to_dict(), member.args.to_dict()
        for name in sorted(ours.keys() - SWEPT - NAMES):
            if ours[name] != theirs[name]:
                raise ValueError(f"members differ in {name}: {ours[name]!r} and {theirs[name]!r}; it must be the same for all")
