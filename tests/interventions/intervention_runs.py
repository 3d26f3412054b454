"""One tiny training for all tests of interventions."""

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments, set_seed

from hf_radial.interventions import add_interventions
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

P = 7
PAIRS = torch.cartesian_prod(torch.arange(P), torch.arange(P))
ROWS = TensorRows({"input_ids": PAIRS, "labels": PAIRS.sum(1) % P})


def make(folder, given=(), kind=Trainer, config=None, model=None, model_init=None, callbacks=(), rows=ROWS, **options):
    set_seed(0)
    if model is None and model_init is None:
        model = ModularMLPForSequenceClassification(config or ModularMLPConfig(modulus=P, embedding_size=4, hidden_size=8))
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
