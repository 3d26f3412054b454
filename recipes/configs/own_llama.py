"""A model and data of one's own for a grid: a tiny Llama learns to repeat a text backwards.

`compare_own_llama.yaml`, beside this file, names the two functions. The model is made from a configuration; nothing is
downloaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM


def make_rows(letters: int = 5, length: int = 3, train_rows: int = 200, held_out_rows: int = 100) -> dict[str, dict[str, Any]]:
    """`a b c | c b a` as ids: letters from 1, `|` is 0. Labels are the ids after `|`; -100 does not count.

    No row is in two splits. The transformers library shifts the labels itself.
    """
    many = train_rows + 2 * held_out_rows
    if many > letters**length:
        raise ValueError(f"train_rows={train_rows} and held_out_rows={held_out_rows} are more than {letters**length} texts")
    numbers = np.random.default_rng(0).permutation(letters**length)[:many]
    words = 1 + numbers[:, None] // letters ** np.arange(length) % letters
    ids = np.concatenate([words, np.zeros_like(words[:, :1]), words[:, ::-1]], axis=1)
    labels = np.where(np.arange(ids.shape[1]) > length, ids, -100)
    ends = [train_rows, train_rows + held_out_rows]
    return {
        name: {"input_ids": own_ids, "labels": own_labels}
        for name, own_ids, own_labels in zip(
            ("train", "validation", "test"), np.split(ids, ends), np.split(labels, ends), strict=True
        )
    }


def make_model(rows: Any, width: int = 32, layers: int = 2) -> tuple[type[LlamaForCausalLM], LlamaConfig]:
    """The class and its configuration, so that an intervention may change the configuration before the model is made."""
    ids = rows.columns["input_ids"]
    config = LlamaConfig(
        vocab_size=int(ids.max()) + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=ids.shape[1],
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM, config
