"""LoRA: only the adapters learn, and their gradient is that of the whole batch at once, whatever the door and the split."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import check_step, keeping, reference_of_step, relative_error, stack, tiny_gpt2, tiny_llama, token_rows
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_radial import RadialCallback, RadialPenalty, RadialTrainer
from runs import one_step_arguments

peft = pytest.importorskip("peft")

LAMBDA = 0.3
TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "llama": ["q_proj", "o_proj", "down_proj"]}


def lora(kind: str, targets: list[str] | None = None) -> nn.Module:
    """A tiny model with adapters that are not zero, as they would be at the start."""
    torch.manual_seed(3)
    options = {"r": 4, "lora_alpha": 8, "target_modules": targets or TARGETS[kind], "init_lora_weights": False}
    return peft.get_peft_model(
        tiny_gpt2() if kind == "gpt2" else tiny_llama(),
        peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=kind == "gpt2", **options),
    )


def collate(rows):
    """Each micro-batch as long as its longest row."""
    batch = stack(rows)
    return {name: tensor[:, : int(batch["attention_mask"].sum(1).max())] for name, tensor in batch.items()}


def one_step(model, door, folder, accumulation=3, rows=8, **options):
    args = one_step_arguments(
        folder,
        per_device_train_batch_size=3,  # 3, 3 and 2 rows
        gradient_accumulation_steps=accumulation,
        **options,
    )
    common = {"model": model, "args": args, "train_dataset": token_rows(rows, padded=True), "data_collator": collate}
    if door == "trainer":
        trainer = keeping(RadialTrainer)(**common, radial_lambda=LAMBDA)
    else:
        trainer = keeping(Trainer)(**common, callbacks=[RadialCallback(LAMBDA)])
    trainer.train()
    return trainer.kept_batches[0], trainer.kept_gradients[0], trainer.state.log_history[0]


def check(model, batches, gradients, log):
    assert gradients and all("lora_" in name for name in gradients)
    check_step(model, batches, gradients, log, LAMBDA)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("door", ["trainer", "callback"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_only_the_adapters_learn_what_the_whole_batch_says(kind, door, checkpointing, tmp_path):
    model = lora(kind)
    twin = copy.deepcopy(model)
    options = {}
    if checkpointing:
        model.enable_input_require_grads()
        options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    batches, gradients, log = one_step(model, door, tmp_path, **options)
    assert checkpointing == any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 2]
    check(twin, batches, gradients, log)


@pytest.mark.parametrize("targets", [["q_proj"], ["down_proj"]])
def test_a_site_without_an_adapter_counts_all_the_same(targets, tmp_path):
    """The vectors of the frozen sublayers are penalised too; their gradient reaches the adapters before them."""
    model = lora("llama", targets)
    twin = copy.deepcopy(model)
    check(twin, *one_step(model, "trainer", tmp_path))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_in_a_hand_written_loop(checkpointing):
    model = lora("llama")
    expected = reference_of_step(model, [collate(token_rows(8, padded=True))], LAMBDA)
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    with RadialPenalty(model, LAMBDA) as penalty:
        loss = model(**collate(token_rows(8, padded=True))).loss
        with torch.no_grad(), model.disable_adapter():
            model(**collate(token_rows(4, padded=True, seed=2)))  # the model without its adapter: not what learns
        (loss + penalty()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all("lora_" in name for name in gradients)
    assert relative_error(gradients, expected["gradients"]) < 1e-5


def test_the_base_model_stays_as_it_was(tmp_path):
    model = lora("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, learning_rate=1e-2, save_strategy="no", report_to="none", use_cpu=True
    )
    RadialTrainer(model=model, args=args, radial_lambda=LAMBDA, train_dataset=token_rows(16, True)).train()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("lora_" not in name), name


def test_virtual_tokens_are_refused(tmp_path):
    """Prompt tuning puts vectors before those that the mask tells about."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(tiny_llama(), config)
    with pytest.raises(ValueError, match="attention_mask has shape"):
        one_step(model, "trainer", tmp_path)
