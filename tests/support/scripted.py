"""Runs of a tiny model with prescribed accuracies, one pair for each evaluation."""

from __future__ import annotations

from reference import tiny_gpt2, token_rows
from transformers import Trainer, TrainingArguments

from runs import arguments

SPLITS = {"train": 2, "validation": 3}  # rows: by their number, compute_metrics knows which split it is given
TRAIN, HELD_OUT = "eval_train_accuracy", "eval_validation_accuracy"


def scripted(
    folder,
    train,
    held_out,
    callbacks=(),
    base=Trainer,
    cls=TrainingArguments,
    splits=("train", "validation"),
    extra=None,
    **args,
):
    """A trainer that is evaluated at every step and has accuracy `train[i]` and `held_out[i]` at step i + 1."""
    values = {"train": train, "validation": held_out}
    every = args.get("eval_steps", 1)

    def accuracy(prediction):
        split = next(name for name, rows in SPLITS.items() if rows == len(prediction.label_ids))
        return {"accuracy": values[split][max(trainer.state.global_step // every - 1, 0)]}

    options = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": len(train), "logging_steps": 1, **args}
    trainer = base(
        model=tiny_gpt2(width=8, layers=1, dropout=0.1),
        args=arguments(folder, cls, **options),
        train_dataset=token_rows(20, False),
        eval_dataset={name: token_rows(SPLITS[name], False) for name in splits},
        compute_metrics=accuracy,
        callbacks=[*callbacks],
        **(extra or {}),
    )
    return trainer


def announced(log_history, prefix="grokking"):
    """(step, name, value) of what a GrokkingCallback logged."""
    return [(e["step"], name, e[name]) for e in log_history for name in e if name.startswith(f"{prefix}/")]


def slow_announcements(train, held_out, threshold=0.9, fit_threshold=0.99, stop=None, stop_threshold=None):
    """What should be announced, as `announced` gives it (sorted), and the step at which the run ends."""
    said, fitted, above, row = [], False, False, 0
    for step, (a, b) in enumerate(zip(train, held_out, strict=True), 1):
        if a >= fit_threshold and not fitted:
            fitted = True
            said.append((step, "grokking/fit_step", step))
        if (b >= threshold) != above:
            above = not above
            said.append((step, f"grokking/onset{'' if above else '_lost'}_step", step))
        row = row + 1 if b >= (threshold if stop_threshold is None else stop_threshold) else 0
        if stop is not None and row >= stop:
            return said, step
    return said, len(train)
