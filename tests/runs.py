"""Short runs of a tiny model through either door."""

from __future__ import annotations

from reference import tiny_gpt2, token_rows
from transformers import Trainer

from hf_radial import RadialArguments, RadialCallback, RadialTrainer

DOORS = ("trainer", "callback")
SITES = [f"transformer.h.{i}.{part}.c_proj" for i in (0, 1) for part in ("attn", "mlp")]


def arguments(folder, cls=RadialArguments, **options):
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return cls(**{**defaults, **options})


def training_logs(trainer):
    return [logs for logs in trainer.state.log_history if "loss" in logs]


def make_trainer(
    door, folder, options=None, model=None, rows=None, eval_rows=None, callbacks=(), base=Trainer, cls=RadialTrainer, **args
):
    """A trainer with the penalty's `options`, through `RadialTrainer` or `RadialCallback`."""
    options = {"radial_lambda": 0.2, **(options or {})}
    common = {
        "model": tiny_gpt2() if model is None else model,
        "args": arguments(folder, **args),
        "train_dataset": token_rows(32, True) if rows is None else rows,
        "eval_dataset": eval_rows,
    }
    if door == "trainer":
        return cls(**common, callbacks=[*callbacks], **options)
    return base(**common, callbacks=[RadialCallback(**options), *callbacks])
