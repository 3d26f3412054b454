"""The definition, slow and obvious: one float64 pass over the whole effective batch, without hooks and without a Trainer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY, PAD = 14, 0


def tiny_gpt2(seed: int = 0, width: int = 32, layers: int = 2, dropout: float = 0.0) -> GPT2LMHeadModel:
    """A GPT-2 with weights large enough that its radii are not all near zero."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=16,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    model = GPT2LMHeadModel(config)
    # transformers cannot tell from the class's name that the loss shifts the labels, and counts one token a row too many.
    model.loss_type = "ForCausalLM"
    return model


def token_rows(count: int, padded: bool, length: int = 9, seed: int = 1) -> list[dict[str, list[int]]]:
    """Random rows; with padding, of uneven numbers of real tokens, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        real = int(torch.randint(2, length + 1, (), generator=generator)) if padded else length
        tokens = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        row = {"input_ids": tokens[:real] + [PAD] * (length - real), "labels": tokens[:real] + [-100] * (length - real)}
        if padded:
            row["attention_mask"] = [1] * real + [0] * (length - real)
        rows.append(row)
    return rows


def stack(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def gpt2_forward(model: GPT2LMHeadModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and what each sublayer adds to the residual stream, block by block."""
    ids = batch["input_ids"]
    real = batch.get("attention_mask", torch.ones_like(ids)).bool()
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    allowed = causal[None, None] & real[:, None, None, :]
    bias = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, torch.finfo(torch.float64).min)
    trunk, increments = model.transformer, {}
    stream = trunk.wte(ids) + trunk.wpe(torch.arange(ids.shape[1]))
    for i, block in enumerate(trunk.h):
        added = block.attn(block.ln_1(stream), attention_mask=bias)[0]
        increments[f"transformer.h.{i}.attn.c_proj"] = added
        stream = stream + added
        added = block.mlp(block.ln_2(stream))
        increments[f"transformer.h.{i}.mlp.c_proj"] = added
        stream = stream + added
    return model.lm_head(trunk.ln_f(stream)), increments


def reference(
    model: GPT2LMHeadModel, batch: dict[str, Tensor], radial_lambda: float, radius: float | None = None, side: str = "both"
) -> dict[str, Any]:
    """Loss terms, mean radii and parameter gradients of `L_task + radial_lambda * sum_s mean_v (||h|| - R)^2 / d`."""
    model = copy.deepcopy(model).double().eval()
    model.set_attn_implementation("eager")
    logits, increments = gpt2_forward(model, batch)
    labels = batch["labels"][:, 1:]
    task = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    penalty, radii = torch.zeros((), dtype=torch.float64), {}
    for name, h in increments.items():
        r = h[real].norm(dim=-1)
        excess = r - (h.shape[-1] ** 0.5 if radius is None else radius)
        penalty = penalty + ((excess.clamp(min=0) if side == "above" else excess) ** 2).mean() / h.shape[-1]
        radii[name] = r.mean().item()
    (task + radial_lambda * penalty).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"task_loss": task.item(), "radial_penalty": penalty.item(), "radius": radii, "gradients": gradients}


def relative_error(measured: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest over the parameters of ||measured - expected|| / ||expected||."""
    if measured.keys() != expected.keys():
        raise ValueError(f"parameters differ: {measured.keys() ^ expected.keys()}")
    return max(((measured[n].double() - g).norm() / g.norm().clamp(min=1e-12)).item() for n, g in expected.items())
