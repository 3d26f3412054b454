"""Small GPT-2 models for the tasks of this package: the configuration in the paper's words, and the model with its loss."""

from __future__ import annotations

from typing import Any

from transformers import GPT2Config, GPT2LMHeadModel


def gpt2_config(
    vocab_size: int, positions: int, *, width: int, layers: int, heads: int, dropout: float = 0.0, **options: Any
) -> GPT2Config:
    """The configuration of a GPT-2 without a start sign.

    Args:
        vocab_size: number of tokens.
        positions: longest sequence, in tokens.
        width: width d of the residual stream.
        layers: transformer blocks.
        heads: attention heads of a block.
        dropout: everywhere, in [0, 1).
        options: further fields of `GPT2Config`.
    """
    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,
        **options,
    )


def causal_gpt2(config: GPT2Config) -> GPT2LMHeadModel:
    """A language model with fresh weights."""
    model = GPT2LMHeadModel(config)
    # transformers does not know from the name of this class that its loss shifts the labels: it would warn and miscount.
    model.loss_type = "ForCausalLM"
    return model
