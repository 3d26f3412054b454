"""trl's trainers: a step of SFT and of DPO has the gradient and the logged penalty of the unsplit batch."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from reference import check_step, keeping, tiny_gpt2, tiny_llama
from torch import nn
from trl_rows import sentences, tokenizer

from hf_radial import RadialCallback
from hf_radial.training.mixin import RadialMixin

trl = pytest.importorskip("trl")
peft = pytest.importorskip("peft")

LAMBDA = 0.3


class RadialSFTTrainer(RadialMixin, trl.SFTTrainer):
    pass


class RadialDPOTrainer(RadialMixin, trl.DPOTrainer):
    pass


RADIAL = {trl.SFTTrainer: RadialSFTTrainer, trl.DPOTrainer: RadialDPOTrainer}


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


def one_step(base: type, door: str, model: nn.Module, dataset: Dataset, folder, batch_size: int = 3, **options):
    """The micro-batches, the gradients and the log of one step of `base`, made radial."""
    extra = {name: options.pop(name) for name in ("ref_model", "peft_config") if name in options}
    configuration = {trl.SFTTrainer: trl.SFTConfig, trl.DPOTrainer: trl.DPOConfig}[base]
    args = configuration(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": 3,
            "max_steps": 1,
            "max_grad_norm": 0.0,
            "learning_rate": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            **options,
        }
    )
    common = {"model": model, "args": args, "train_dataset": dataset, "processing_class": tokenizer(), **extra}
    if door == "mixin":
        trainer = keeping(RADIAL[base])(**common, radial_lambda=LAMBDA)
    else:
        trainer = keeping(base)(**common, callbacks=[RadialCallback(LAMBDA)])
    trainer.train()  # the learning rate is zero
    one_step.model = trainer.model
    return trainer.kept_batches[0], trainer.kept_gradients[0], trainer.state.log_history[0]


# SFT ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["text", "completion", "chat"])
@pytest.mark.parametrize("door", ["mixin", "callback"])
def test_sft(door, kind, checkpointing, tmp_path):
    """Rows and lengths are uneven; the task is that of some of the tokens, the penalty that of all that are not padding."""
    model = tiny_llama()
    options = {"gradient_checkpointing": checkpointing, "assistant_only_loss": kind == "chat"}
    batches, gradients, log = one_step(trl.SFTTrainer, door, copy.deepcopy(model), sentences(kind), tmp_path, **options)
    assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 2]
    labelled = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert labelled <= sum(int(batch["attention_mask"].sum()) for batch in batches) - (8 if kind != "text" else 0)
    check_step(model, batches, gradients, log, LAMBDA)


def test_sft_of_gpt2(tmp_path):
    model = tiny_gpt2()
    check_step(model, *one_step(trl.SFTTrainer, "callback", copy.deepcopy(model), sentences("text"), tmp_path), LAMBDA)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_sft_of_packed_rows(strategy, tmp_path):
    """Several sentences in one row, each blind to the others (or, wrapped, not): all vectors are somebody's."""
    model = tiny_llama()
    batches, gradients, log = one_step(
        trl.SFTTrainer,
        "mixin",
        copy.deepcopy(model),
        sentences("text", 40),
        tmp_path,
        packing=True,
        packing_strategy=strategy,
        max_length=16,
    )
    if strategy != "wrapped":
        assert all("attention_mask" not in batch and (batch["position_ids"] == 0).sum() > 1 for batch in batches)
    check_step(model, batches, gradients, log, LAMBDA)


@pytest.mark.parametrize("door", ["mixin", "callback"])
def test_sft_without_padding(door, tmp_path):
    """The rows of a micro-batch one after the other in a single row."""
    model = tiny_llama()
    options = {"padding_free": True, "max_length": None}
    batches, gradients, log = one_step(trl.SFTTrainer, door, copy.deepcopy(model), sentences("text"), tmp_path, **options)
    assert [int((batch["position_ids"] == 0).sum()) for batch in batches] == [3, 3, 2]
    check_step(model, batches, gradients, log, LAMBDA)


def test_sft_of_adapters(tmp_path):
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny_llama(), config)
    twin = copy.deepcopy(model)
    options = {"gradient_checkpointing": True}
    batches, gradients, log = one_step(trl.SFTTrainer, "callback", model, sentences("text"), tmp_path, **options)
    assert all("lora_" in name for name in gradients)
    check_step(twin, batches, gradients, log, LAMBDA)


# DPO ------------------------------------------------------------------------------------------------------------------


def completion_log_probability(logits, batch):
    chosen = batch["input_ids"][:, 1:, None]
    each = logits[:, :-1].log_softmax(-1).gather(-1, chosen)[..., 0]
    return (each * batch["completion_mask"][:, 1:]).sum(1)


def dpo_loss(reference_model: nn.Module, beta: float = 0.1):
    """Mean over micro-batches, as the trainer's, of the mean over pairs: the chosen rows, then the rejected."""

    def loss(logits, batch, sizes):
        with torch.no_grad():
            theirs = reference_model.to(logits.dtype)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        gain = completion_log_probability(logits, batch) - completion_log_probability(theirs.logits, batch)
        parts = []
        for part in gain.split(sizes):
            chosen, rejected = part.chunk(2)
            parts.append(-nn.functional.logsigmoid(beta * (chosen - rejected)).mean())
        return torch.stack(parts).mean()

    return loss


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("door", ["mixin", "callback"])
def test_dpo(door, checkpointing, tmp_path):
    """The vectors are those of the chosen and the rejected rows; those of the reference model do not count."""
    model, other = tiny_llama(), tiny_llama(seed=1)
    batches, gradients, log = one_step(
        trl.DPOTrainer,
        door,
        copy.deepcopy(model),
        sentences("preference"),
        tmp_path,
        ref_model=copy.deepcopy(other),
        gradient_checkpointing=checkpointing,
    )
    assert [len(batch["input_ids"]) for batch in batches] == [6, 6, 4]
    check_step(model, batches, gradients, log, LAMBDA, dpo_loss(other.eval()))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("made_by", ["trl", "us"])
def test_dpo_of_adapters(made_by, checkpointing, tmp_path):
    """The reference is the same model without its adapter (made by trl) or with its first state (made by us).

    It runs in the same step and in training mode, and does not count.
    """
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    options = {"gradient_checkpointing": checkpointing}
    if made_by == "trl":
        model, other, options["peft_config"] = tiny_llama(), tiny_llama().eval(), config
        twin = peft.get_peft_model(tiny_llama(), config)
    else:
        model = peft.get_peft_model(tiny_llama(), config)
        twin, other = copy.deepcopy(model), copy.deepcopy(model).eval()
    batches, gradients, log = one_step(trl.DPOTrainer, "callback", model, sentences("preference"), tmp_path, **options)
    assert all("lora_" in name for name in gradients)
    if made_by == "trl":
        adapters = {name: p for name, p in one_step.model.named_parameters() if "lora_" in name}
        twin.load_state_dict({**twin.state_dict(), **adapters})
    # Beside itself, the gradients of the chosen and of the rejected row all but cancel.
    check_step(twin, batches, gradients, log, LAMBDA, dpo_loss(other), tolerance=1e-6 if made_by == "trl" else 2e-6)
