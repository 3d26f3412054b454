"""The sites are what the model really adds to its residual stream."""

from __future__ import annotations

import pytest
import torch
import transformers
from reference import tiny_gpt2
from torch import nn

from hf_radial.models import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.sites import SUBLAYER_OUTPUTS, find_sites

TINY = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "pad_token_id": 0,
}


def tiny(model_type: str) -> nn.Module:
    if model_type == "gpt2":
        return tiny_gpt2().transformer
    config = transformers.AutoConfig.for_model(model_type)
    known = {name: value for name, value in TINY.items() if hasattr(config, name)}
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(model_type, **known))


@pytest.mark.parametrize("model_type", sorted(SUBLAYER_OUTPUTS))
def test_the_sites_account_for_the_residual_stream(model_type):
    """Pre-norm: stream out - stream in = sum of the sites. Post-norm (BERT): the norm's input is the stream plus the site."""
    model = tiny(model_type).eval()
    sites = find_sites(model)
    assert len(sites) == 4
    modules, seen = dict(model.named_modules()), {}
    blocks = SUBLAYER_OUTPUTS[model_type][0]
    for site in sites:
        modules[site.name].register_forward_hook(lambda m, a, out, name=site.name: seen.update({name: out}))
    for name, module in modules.items():
        if name.endswith((f"{blocks}.0", f"{blocks}.1")):

            def keep(m, args, kwargs, out, name=name):
                seen[name + ":in"] = args[0] if args else kwargs["hidden_states"]
                seen[name + ":out"] = out[0] if isinstance(out, tuple) else out

            module.register_forward_hook(keep, with_kwargs=True)
        if name.endswith("LayerNorm"):
            module.register_forward_pre_hook(lambda m, args, name=name: seen.update({name + ":norm": args[0]}))
    with torch.no_grad():
        model(input_ids=torch.randint(1, 14, (2, 7)))
    for block in (n.removesuffix(":in") for n in list(seen) if n.endswith(":in")):
        own = [site.name for site in sites if site.name.startswith(block + ".")]
        assert len(own) == 2
        if blocks == "layer":  # BERT and its kin
            attention = modules[f"{block}.attention.output.LayerNorm"]
            first = seen[f"{block}.attention.output.LayerNorm:norm"]
            torch.testing.assert_close(first, seen[block + ":in"] + seen[own[0]])
            torch.testing.assert_close(seen[f"{block}.output.LayerNorm:norm"], attention(first) + seen[own[1]])
        else:
            torch.testing.assert_close(seen[block + ":out"], seen[block + ":in"] + seen[own[0]] + seen[own[1]])


def test_the_hidden_pre_activations_of_mlps():
    mlp = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8))
    assert [site.name for site in find_sites(mlp)] == ["hidden.0", "hidden.1"]
    assert [site.width for site in find_sites(mlp)] == [8, 8]
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 2))
    assert [(site.name, site.width) for site in find_sites(plain)] == [("0", 8), ("2", 6)]


def test_cross_attention_is_a_sublayer_too():
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=14, add_cross_attention=True)
    names = [site.name for site in find_sites(transformers.GPT2LMHeadModel(config))]
    assert names == ["transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_proj", "transformer.h.0.crossattention.c_proj"]


def test_patterns_override_the_known_places():
    model = tiny_gpt2()
    assert [s.name for s in find_sites(model, ["*.mlp.c_proj"])] == [f"transformer.h.{i}.mlp.c_proj" for i in (0, 1)]
    assert [s.name for s in find_sites(model, [r"re:.*h\.1\.(attn|mlp)\.c_proj", "*.h.0.ln_1"])] == [
        "transformer.h.0.ln_1",
        "transformer.h.1.attn.c_proj",
        "transformer.h.1.mlp.c_proj",
    ]


def test_look_alikes_are_refused_and_told_what_to_do():
    config = transformers.Gemma2Config(**{k: v for k, v in TINY.items() if k != "hidden_dropout_prob"}, head_dim=8)
    with pytest.raises(ValueError, match=r"no site found.*gemma2.*sites=\[") as error:
        find_sites(transformers.Gemma2ForCausalLM(config))
    assert "model.layers.0.self_attn.q_proj" in str(error.value)


def test_a_block_without_its_site_is_an_error_not_a_partial_penalty():
    model = tiny_gpt2()
    model.transformer.h[1].mlp = nn.Identity()
    with pytest.raises(ValueError, match=r"block 'transformer\.h\.1'"):
        find_sites(model)
