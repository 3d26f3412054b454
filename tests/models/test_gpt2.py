"""Small GPT-2: the configuration in the paper's words, and a loss that transformers knows to shift the labels."""

from __future__ import annotations

import torch
from transformers import GPT2Config

from hf_radial.models.gpt2 import causal_gpt2, gpt2_config


def test_the_configuration_is_that_of_the_fields_of_gpt2():
    ours = gpt2_config(12, 16, width=8, layers=1, heads=2, dropout=0.1, eos_token_id=3)
    dropouts = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    fields = {"vocab_size": 12, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2, **dropouts}
    assert ours.to_dict() == GPT2Config(**fields, bos_token_id=None, eos_token_id=3).to_dict()


def test_the_loss_is_that_of_the_next_token():
    torch.manual_seed(0)
    model = causal_gpt2(gpt2_config(12, 16, width=8, layers=1, heads=2, eos_token_id=3)).eval()
    ids = torch.randint(0, 12, (2, 8))
    output = model(input_ids=ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].reshape(-1, 12), ids[:, 1:].reshape(-1))
    torch.testing.assert_close(output.loss, expected)
    assert model.loss_type == "ForCausalLM"
