"""Adapters on quantised weights: a step has the gradient of the same adapters on the dequantised weights."""

from __future__ import annotations

import copy

import pytest
import torch
from loss_scaling_worker import trimmed
from reference import check_step, keeping, tiny_llama, token_rows
from torch import nn
from transformers import AutoModelForCausalLM, Trainer

from hf_radial import RadialCallback
from runs import one_step_arguments

peft = pytest.importorskip("peft")
LAMBDA = 0.3


def bitsandbytes(folder, **options):
    bnb = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    tiny_llama(width=64).save_pretrained(folder)
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **options)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32, device_map="cpu")

    def weight(layer):
        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)

    return model, bnb.nn.Linear4bit, weight


def torchao(folder, **options):
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = tiny_llama(width=64)
    quantize_(
        model, Int8WeightOnlyConfig(), filter_fn=lambda module, name: isinstance(module, nn.Linear) and "lm_head" not in name
    )
    return model, nn.Linear, lambda layer: layer.weight.dequantize() if hasattr(layer.weight, "dequantize") else layer.weight


def dequantised(model, kind, weight):
    twin = copy.deepcopy(model)
    for where, parent in list(twin.named_modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is kind and "lora_" not in where and name != "lm_head":
                plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
                plain.weight = nn.Parameter(weight(layer).detach().clone().float(), requires_grad=False)
                setattr(parent, name, plain)
    return twin


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(("make", "options"), [(bitsandbytes, {"load_in_4bit": True}), (torchao, {})])
def test_adapters_on_quantised_weights(make, options, accumulation, tmp_path):
    model, kind, weight = make(tmp_path / "model", **options)
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    twin = dequantised(model, kind, weight)
    args = one_step_arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=accumulation)
    rows = token_rows(9 if accumulation == 3 else 3, padded=True)
    trainer = keeping(Trainer)(
        model=model, args=args, train_dataset=rows, data_collator=trimmed, callbacks=[RadialCallback(LAMBDA)]
    )
    trainer.train()
    assert sum(name.startswith("radius/") for name in trainer.state.log_history[0]) == 4
    check_step(twin, trainer.kept_batches[0], trainer.kept_gradients[0], trainer.state.log_history[0], LAMBDA, tolerance=1e-5)
