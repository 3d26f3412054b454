"""LoRA: only the adapters learn, with the gradient of the unsplit batch, in `RadialTrainer` and with `RadialCallback`."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import (
    attention_bias,
    check_step,
    keeping,
    reference_of_step,
    relative_error,
    stack,
    tiny_gpt2,
    tiny_llama,
    token_rows,
)
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


@pytest.mark.parametrize("door", ["trainer", "callback"])
def test_virtual_tokens_count(door, tmp_path):
    """Prompt tuning puts vectors before those of the batch; the prompt gets the gradient of the penalty of all of them."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    torch.manual_seed(3)
    model = peft.get_peft_model(tiny_llama(), config)
    start, twin = copy.deepcopy(model), copy.deepcopy(model).double()
    batches, gradients, log = one_step(model, door, tmp_path)
    base = twin.get_base_model()
    base.set_attn_implementation("eager")
    squares = {}
    for batch in batches:
        words = base.get_input_embeddings()(batch["input_ids"])
        embeddings = torch.cat([twin.get_prompt(len(words)).to(words.dtype), words], 1)
        real = torch.cat([batch["attention_mask"].new_ones(len(words), 3), batch["attention_mask"]], 1).bool()
        positions = torch.arange(real.shape[1])[None]
        bias = attention_bias({"input_ids": real.long(), "attention_mask": real}, embeddings.dtype)
        turn, stream = base.model.rotary_emb(embeddings, position_ids=positions), embeddings
        for i, block in enumerate(base.model.layers):
            added = block.self_attn(block.input_layernorm(stream), position_embeddings=turn, attention_mask=bias)[0]
            squares.setdefault((i, "attention"), []).append((added[real].norm(dim=-1) - 32**0.5).square() / 32)
            stream = stream + added
            added = block.mlp(block.post_attention_layernorm(stream))
            squares.setdefault((i, "mlp"), []).append((added[real].norm(dim=-1) - 32**0.5).square() / 32)
            stream = stream + added
    penalty = sum(torch.cat(each).mean() for each in squares.values())
    assert log["radial_penalty"] == pytest.approx(penalty.item(), rel=1e-5)
    (expected,) = torch.autograd.grad(penalty, twin.prompt_encoder.default.embedding.weight)
    args = one_step_arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=3)
    plain = keeping(Trainer)(model=start, args=args, train_dataset=token_rows(8, padded=True), data_collator=collate)
    plain.train()
    (with_penalty,), (without,) = gradients.values(), plain.kept_gradients[0].values()
    assert (with_penalty - without - LAMBDA * expected).norm() < 1e-5 * LAMBDA * expected.norm()
