"""One tiny training for all tests of interventions."""

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments, set_seed

from hf_radial import RadialTrainer
from hf_radial.interventions import add_interventions
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

P = 7
PAIRS = torch.cartesian_prod(torch.arange(P), torch.arange(P))
ROWS = TensorRows({"input_ids": PAIRS, "labels": PAIRS.sum(1) % P})
# One setting of each; `record` and `replay` have tests of their own.
SETTINGS = {
    "weight_decay": "weight_decay:value=0.5",
    "embedding_rate": "embedding_rate:ratio=3",
    "dropout": "dropout:p=0.2",
    "layer_norm": "layer_norm:affine=true",
    "ngpt": "ngpt",
    "spectral_norm": "spectral_norm",
    "activation_norm": "activation_norm:strength=0.1",
    "radial": "radial:strength=0.1",
    "projection": "projection",
    "weight_norm": "weight_norm:factor=0.8",
    "logit_temperature": "logit_temperature:temperature=2",
    "radial_gradient": "radial_gradient",
    "grokfast_ema": "grokfast_ema:alpha=0.5",
    "grokfast_ma": "grokfast_ma:window_size=2",
    "orthogonal_gradient": "orthogonal_gradient",
    "stablemax": "stablemax",
    "egalitarian_gradient": "egalitarian_gradient",
    "column_normalization": "column_normalization",
    "sam": "sam:rho=0.5",
    "initial_scale": "initial_scale:factor=0.5",
    "logit_norm": "logit_norm:strength=0.1",
    "z_loss": "z_loss:strength=0.1",
    "label_smoothing": "label_smoothing:factor=0.2",
    "cosine_head": "cosine_head:scale=5",
    "jacobian": "jacobian:strength=0.1",
    "soap": "soap:frequency=2",
    "muon": "muon",
    "optim": "optim:optim=adafactor",
    "l2_init": "l2_init:strength=0.1",
    "spectral_penalty": "spectral_penalty:strength=0.1",
    "shrink_perturb": "shrink_perturb:every=2",
    "redo": "redo:threshold=0.5,every=2",
    "ewc": "ewc:strength=100,every=2",
}


class Ours(RadialTrainer):
    """Without a penalty of its own."""

    def __init__(self, **kwargs):
        super().__init__(radial_lambda=0.0, **kwargs)


def small_config():
    return ModularMLPConfig(modulus=P, embedding_size=4, hidden_size=8)


def seeded_model():
    """The same small model at each call."""
    torch.manual_seed(1)
    return ModularMLPForSequenceClassification(small_config())


def make(folder, given=(), kind=Trainer, config=None, model=None, model_init=None, callbacks=(), rows=ROWS, **options):
    set_seed(0)
    if model is None and model_init is None:
        model = ModularMLPForSequenceClassification(config or small_config())
    args = (Seq2SeqTrainingArguments if issubclass(kind, Seq2SeqTrainer) else TrainingArguments)(
        output_dir=str(folder),
        **{
            "max_steps": 6,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "lr_scheduler_type": "constant",
            **options,
        },
    )
    collator = as_batch if rows is ROWS else None
    trainer = kind(
        model=model,
        model_init=model_init,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collator,
        callbacks=[*callbacks],
    )
    add_interventions(trainer, given)
    return trainer


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)
