"""Intervals in epochs become intervals in optimizer steps."""

from __future__ import annotations

import pytest
from transformers import TrainingArguments

from hf_radial.runs.epochs import in_steps


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 3), ({"dataloader_drop_last": True}, 2), ({"gradient_accumulation_steps": 2}, 2)],
    ids=["plain", "drop_last", "accumulation"],
)
def test_an_epoch_has_as_many_steps_as_batches(options, steps, tmp_path):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none", **options)
    made, found = in_steps(args, 10, evaluate_every=2, log_every=3, save_every=5)
    assert found == steps
    assert (made.eval_steps, made.logging_steps, made.save_steps) == (2 * steps, 3 * steps, 5 * steps)
    assert made.eval_strategy == made.logging_strategy == made.save_strategy == "steps"
    assert args.eval_strategy == "no", "the given arguments are not changed"


def test_zero_writes_no_checkpoint(tmp_path):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none")
    assert in_steps(args, 10, 1, 1, 0)[0].save_strategy == "no"
