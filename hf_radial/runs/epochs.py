"""Intervals that are given in epochs, as `TrainingArguments` takes them: in optimizer steps."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import TypeVar

from transformers import TrainingArguments

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def in_steps(args: Arguments, rows: int, evaluate_every: int, log_every: int, save_every: int) -> tuple[Arguments, int]:
    """The arguments of a run on whole batches (`hf_radial.tasks.tensor_rows`), and the number of steps in an epoch.

    Args:
        args: of the run; they are copied.
        rows: of the training set.
        evaluate_every: epochs from one evaluation to the next.
        log_every: epochs from one log to the next.
        save_every: epochs from one checkpoint to the next; 0 for none.
    """
    batches = rows / (args.per_device_train_batch_size * args.world_size)
    batches = max(1, math.floor(batches) if args.dataloader_drop_last else math.ceil(batches))
    steps = math.ceil(batches / args.gradient_accumulation_steps)
    options = {
        "remove_unused_columns": False,  # the dataset gives whole batches, not rows with columns
        "eval_strategy": "steps",
        "eval_steps": evaluate_every * steps,
        "logging_strategy": "steps",
        "logging_steps": log_every * steps,
        "save_strategy": "steps" if save_every else "no",
        "save_steps": max(1, save_every) * steps,
        # Without a terminal, a bar would fill a file.
        "disable_tqdm": bool(args.disable_tqdm) or not sys.stderr.isatty(),
        "resume_from_checkpoint": None,
    }
    return replace(args, **options), steps
