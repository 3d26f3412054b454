"""Tiny random models of nearly every architecture that transformers can name, and inputs for them.

The list of architectures is that of the installed transformers: four of its Auto mappings. Sizes are set by the names of the
config's fields (`SIZES`), which is enough for most; what else an architecture needs stands in `OVERRIDES`. Nothing is
downloaded. Which of them build and run is found out by `architectures_worker.py`.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

MAPPINGS: dict[str, Any] = {
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked-lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "image": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}
WIDTH, HEADS, KV_HEADS, HEAD_DIM, INNER, EXPERT, VOCABULARY = 64, 4, 2, 16, 96, 48, 128
PAD, BOS, EOS = 1, 2, 3

# value, and the fields that get it, in whichever config has them
_SIZES: list[tuple[int, str]] = [
    (WIDTH, "hidden_size d_model n_embd dim embed_dim emb_dim embedding_size hidden_dim projection_dim word_embed_proj_dim"),
    (WIDTH, "backbone_hidden_size attention_hidden_size lru_width entity_emb_size d_latents audio_hidden_size"),
    (2, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_blocks num_encoder_layers depths"),
    (2, "depth num_decoder_layers max_window_layers speech_encoder_layers t2u_encoder_layers t2u_decoder_layers"),
    (2, "num_self_attends_per_block encoder_sparse_step decoder_sparse_step num_experts_per_tok moe_k moe_topk moe_top_k"),
    (2, "top_k_experts zero_expert_num type_vocab_size num_codebooks num_frames num_filters"),
    (HEADS, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads"),
    (HEADS, "num_encoder_attention_heads num_decoder_attention_heads linear_num_value_heads linear_num_heads"),
    (HEADS, "swa_num_attention_heads"),
    (KV_HEADS, "num_key_value_heads num_kv_heads linear_num_key_heads index_n_heads indexer_n_heads n_mamba_heads"),
    (KV_HEADS, "swa_num_key_value_heads"),
    (1, "indexer_kv_heads n_groups mamba_n_groups mamba_ngroups num_random_blocks pretraining_tp n_shared_experts"),
    (1, "num_shared_experts n_group topk_group first_k_dense_replace num_dense_layers num_sparse_encoder_layers"),
    (1, "num_sparse_decoder_layers"),
    (HEAD_DIM, "head_dim d_kv attention_head_dim dim_head kv_channels v_head_dim qk_head_dim swa_head_dim index_head_dim"),
    (HEAD_DIM, "indexer_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim mamba_head_dim d_head"),
    (16, "hidden_size_per_layer_input audio_vocab_size num_mel_bins relative_attention_max_distance"),
    (8, "qk_rope_head_dim qk_nope_head_dim rotary_dim state_size ssm_state_size mamba_d_state mamba_n_heads mamba_num_heads"),
    (8, "chunk_size mamba_chunk_size laurel_rank sliding_window sliding_window_size attention_window local_attention"),
    (8, "index_topk indexer_budget lsh_attn_chunk_length local_attn_chunk_length num_latents adapter_rank"),
    (8, "relative_attention_num_buckets patch_size"),
    (24, "q_lora_rank kv_lora_rank"),
    (INNER, "intermediate_size n_inner d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim ffn_hidden_size dim_ff dff d_inner"),
    (INNER, "intermediate_size_mlp t2u_encoder_ffn_dim t2u_decoder_ffn_dim speech_encoder_intermediate_size feed_forward_size"),
    (EXPERT, "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size"),
    (EXPERT, "moe_shared_expert_intermediate_size shared_experts_intermediate_size"),
    (4, "moe_num_experts num_experts num_local_experts n_routed_experts block_size indexer_compress_ratio mask_token_id"),
    (128, "mamba_d_ssm"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input t2u_vocab_size src_vocab_size tgt_vocab_size entity_vocab_size"),
    (VOCABULARY, "pronunciation_vocab_size shape_vocab_size encoder_hash_byte_group_vocab"),
    (64, "max_position_embeddings n_positions n_ctx max_seq_len max_source_positions max_target_positions context_length"),
    (64, "max_2d_position_embeddings"),
    (32, "image_size"),
    (3, "num_channels"),
    (PAD, "pad_token_id"),
    (BOS, "bos_token_id decoder_start_token_id"),
    (EOS, "eos_token_id sep_token_id forced_eos_token_id"),
]
SIZES = {name: value for value, names in _SIZES for name in names.split()}
DEFAULT = object()  # in `OVERRIDES`: leave the field alone

_WINDOWED = {"window_size": 2, "embed_dim": 16, "patch_size": 2}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bit": {"num_groups": 8},
    "blt": {
        "vocab_size": 260,
        "decoder_config": {"hidden_size_global": 128},
        "global_config": {"hidden_size": 128},
        "encoder_hash_byte_group_size": [3, 4],
    },
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
    },
    "convnext": {"image_size": 64},
    "convnextv2": {"image_size": 64},
    "cvt": {"embed_dim": [16, 32, 64], "depth": [1, 2, 3]},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": KV_HEADS, "clip_qkv": 8.0}},
    "donut-swin": _WINDOWED,
    "dots3_note_text": {"swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS, "swa_head_dim": HEAD_DIM}
    | {"swa_q_lora_rank": 24, "swa_kv_lora_rank": 24, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": HEAD_DIM},
    "efficientnet": {"hidden_dim": 320, "width_coefficient": 0.25, "depth_coefficient": 0.5},
    "esmc": {"num_key_value_heads": HEADS},
    "funnel": {"block_sizes": [1, 1]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": {"residual_multiplier": 0.22},
    "granitemoe": {"residual_multiplier": 0.22},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hgnet_v2": {"hidden_sizes": DEFAULT},
    "hiera": {"embed_dim": 16},
    "jamba": {"attn_layer_offset": 1},
    "levit": {"patch_size": DEFAULT, "image_size": 64},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"num_heads": 8},
    "mobilevitv2": {"image_size": 256},
    "mpnet": {"relative_attention_num_buckets": 32},
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "nemotron3_5_transcribe_word_timestamp": {"blank_token_id": VOCABULARY - 1},
    "perceiver": {"max_position_embeddings": 16},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds_dim": (16, 48), "axial_pos_shape": (4, 4), "attn_layers": ["local", "lsh"]}
    | {"hash_seed": 0},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "swin": _WINDOWED,
    "swinv2": _WINDOWED,
    "textnet": {"hidden_sizes": DEFAULT},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "attn_layer_offset": 1, "attention_head_dim": 32, "attention_hidden_size": 128}
    | {"num_key_value_heads": HEADS},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "num_key_value_heads": HEADS},
    "zaya": {"num_experts_per_tok": 1},
}


def architectures() -> list[tuple[str, str]]:
    """All (task, model_type) of the installed transformers, in the order of its mappings."""
    return [(task, model_type) for task, mapping in MAPPINGS.items() for model_type in mapping]


def tiny_model(task: str, model_type: str, seed: int = 0) -> PreTrainedModel:
    """The model in eval mode, with random weights large enough that every sublayer counts.

    Raises:
        Exception: whatever the architecture raises that cannot be built so, or without a library that is not installed.
    """
    names = MAPPINGS[task][model_type]
    model_class = getattr(transformers, names if isinstance(names, str) else names[0])
    config = _tiny_config(model_class.config_class or CONFIG_MAPPING[model_type])
    if task == "causal-lm" and hasattr(config, "is_decoder"):
        config.is_decoder = True
    torch.manual_seed(seed)
    model = model_class(config)
    _shake(model, seed)
    return model.eval()


def _tiny_config(config_class: Any) -> PretrainedConfig:
    if config_class.model_type == "encoder-decoder":
        bert = CONFIG_MAPPING["bert"]
        return config_class.from_encoder_decoder_configs(_tiny_config(bert), _tiny_config(bert))
    return config_class(**_tiny_fields(config_class))


def _tiny_fields(config_class: type[PretrainedConfig]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(config_class)}
    for name, default in defaults.items():
        value = 0.0 if "drop" in name and isinstance(default, float) else SIZES.get(name)
        if name == "hidden_sizes":  # of the stages
            fields[name] = [width // 4 for width in default]
        elif value is not None:
            fields[name] = [value] * len(default) if isinstance(default, (list, tuple)) else value
    if "kv_lora_rank" in defaults:
        fields["num_key_value_heads"] = HEADS  # latent attention has as many
        if defaults.get("head_dim") is None:
            fields.pop("head_dim", None)
    if "layer_types" in defaults:
        fields.update(_one_layer_of_each_kind(config_class))
    for name, sub_class in config_class.sub_configs.items():
        if sub_class is AutoConfig:
            sub_config = getattr(config_class(), name)
            if sub_config is not None:
                fields[name] = {"model_type": sub_config.model_type, **_tiny_fields(type(sub_config))}
        else:
            fields[name] = _tiny_fields(sub_class)
    for name, value in OVERRIDES.get(config_class.model_type, {}).items():
        if value is DEFAULT:
            fields.pop(name, None)
        elif isinstance(value, dict):
            fields[name] = {**fields.get(name, {}), **value}
        else:
            fields[name] = value
    return fields


def _one_layer_of_each_kind(config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """Hybrids: two layers would leave out, say, the full attention that is in every fourth layer only."""
    default = config_class()
    lists = {name: getattr(default, name, None) for name in ("layer_types", "mlp_layer_types")}
    lists = {name: kinds for name, kinds in lists.items() if kinds}
    layers = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    if len(layers) < 2:
        return {}
    columns = zip(*layers, strict=True)
    return {"num_hidden_layers": len(layers), **{name: list(column) for name, column in zip(lists, columns, strict=True)}}


@torch.no_grad()
def _shake(model: PreTrainedModel, seed: int) -> None:
    """Weights so large that every sublayer's output is O(1); gates, layer scales and biases off their initial 0 or 1."""
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2 and min(parameter.shape) > 1:
            inputs = parameter[0].numel() if parameter.ndim == 4 else 0  # of a convolution; some are far wider than `WIDTH`
            parameter.copy_(min(0.12, max(inputs, 1) ** -0.5) * noise)
        else:
            parameter.add_(0.1 * noise + (0.3 if parameter.numel() == 1 else 0.0))


def tiny_inputs(task: str, model: PreTrainedModel, rows: int = 2, length: int = 16, seed: int = 0) -> dict[str, Any]:
    """What a forward in eval mode takes: token ids or images, for encoder-decoders half as many decoder tokens."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    accepted = inspect.signature(model.forward).parameters
    token_ids = torch.randint(5, 100, (rows, length), generator=generator)
    inputs: dict[str, Any] = {"input_ids": token_ids}
    if config.model_type == "perceiver" and task == "masked-lm":
        inputs = {"inputs": token_ids}
    elif config.model_type == "siglip2":
        width = config.vision_config.num_channels * config.vision_config.patch_size**2
        inputs = {
            "pixel_values": torch.randn(rows, 16, width, generator=generator),
            "pixel_attention_mask": torch.ones(rows, 16, dtype=torch.long),
            "spatial_shapes": torch.full((rows, 2), 4),
        }
    elif config.model_type == "voxtral_realtime":
        frames = length * config.downsample_factor
        inputs["encoder_inputs_embeds"] = torch.randn(rows, frames, WIDTH, generator=generator)
    elif config.model_type == "git":
        inputs["pixel_values"] = _images(config, rows, generator)
    elif task == "image" and config.model_type not in ("imagegpt", "shieldgemma2"):
        inputs = {model.main_input_name: _images(config, rows, generator)}
    if "decoder_input_ids" in accepted and config.is_encoder_decoder:
        inputs["decoder_input_ids"] = token_ids[:, : length // 2].clone()
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def _images(config: PretrainedConfig, rows: int, generator: torch.Generator) -> Tensor:
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 32)
    return torch.randn(rows, 3, *([size, size] if isinstance(size, int) else size), generator=generator)


def training_batch(task: str, model: PreTrainedModel, rows: int = 2, length: int = 16, seed: int = 0) -> dict[str, Any]:
    """`tiny_inputs` with labels; rows of text are padded on the right where the forward takes a mask, row 0 excepted."""
    batch = tiny_inputs(task, model, rows, length, seed)
    if task == "image":
        return {**batch, "labels": torch.arange(rows) % model.config.num_labels}
    name = "input_ids" if "input_ids" in batch else "inputs"
    kept = torch.arange(length) < (length - 3 * (torch.arange(rows) % 3)).unsqueeze(1)
    if "attention_mask" in inspect.signature(model.forward).parameters:
        batch["attention_mask"] = kept.long()
        batch[name] = batch[name].masked_fill(~kept, PAD)
    labels = batch.get("decoder_input_ids", batch[name])
    labels = labels.masked_fill(~kept[:, -labels.shape[1] :], -100)
    batch["labels"] = labels.unsqueeze(-1) if model.config.model_type.startswith("musicgen") else labels  # of its codebook
    return batch
