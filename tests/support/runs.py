"""Short runs of a tiny model, with `RadialTrainer` or with `RadialCallback`."""

from __future__ import annotations

from reference import tiny_gpt2, token_rows
from transformers import Trainer, TrainerCallback, TrainingArguments

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


def one_step_arguments(folder, cls=TrainingArguments, **options):
    """One optimizer step that moves nothing, with its gradient as it is and everything logged."""
    return arguments(folder, cls, **{"max_steps": 1, "max_grad_norm": 0.0, "learning_rate": 0.0, "logging_steps": 1, **options})


class KeepGradients(TrainerCallback):
    """The gradients of the last step, just before the optimizer."""

    def on_pre_optimizer_step(self, *args, model, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class Bare(Trainer):
    """A trainer whose training step does not use `accelerator.backward`."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        loss.backward()
        return loss.detach()


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
