"""A slow, obvious reference of the penalty: one float64 pass over the whole effective batch, without hooks or a Trainer.

`reference` takes rows of one length. `reference_of_step` takes the micro-batches that a trainer collated, of any lengths, with
any loss and with adapters. `keeping` makes a trainer keep those micro-batches, and the gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerCallback

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


def positions_of(batch: dict[str, Tensor]) -> Tensor:
    """The position of every token: its column, unless the batch says otherwise (documents packed into one row do)."""
    return batch.get("position_ids", torch.arange(batch["input_ids"].shape[1])[None])


def attention_bias(batch: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Nobody attends to padding, to what comes later, or to another document (they start at position 0); all to themselves."""
    ids, document = batch["input_ids"], (positions_of(batch) == 0).cumsum(-1)
    real = batch.get("attention_mask", torch.ones_like(ids)).bool()
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    allowed = (causal & (document[:, :, None] == document[:, None, :]))[:, None] & real[:, None, None, :]
    allowed = allowed | torch.eye(ids.shape[1], dtype=torch.bool)
    # float32's: some models take their softmax in float32 always.
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(torch.float32).min)


def gpt2_forward(model: GPT2LMHeadModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and what each sublayer adds to the residual stream, block by block."""
    ids = batch["input_ids"]
    trunk, increments = model.transformer, {}
    stream = trunk.wte(ids) + trunk.wpe(positions_of(batch))
    bias = attention_bias(batch, stream.dtype)
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


# Any split, any loss, adapters ----------------------------------------------------------------------------------------


def tiny_llama(seed: int = 0, width: int = 32, layers: int = 2, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """A Llama with tied embeddings and weights large enough that its radii are not all near zero."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def llama_forward(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and what each sublayer adds to the residual stream, block by block."""
    trunk, increments = model.model, {}
    stream = trunk.embed_tokens(batch["input_ids"])
    bias = attention_bias(batch, stream.dtype)
    turn = trunk.rotary_emb(stream, position_ids=positions_of(batch))
    for i, block in enumerate(trunk.layers):
        added = block.self_attn(block.input_layernorm(stream), position_embeddings=turn, attention_mask=bias)[0]
        increments[f"model.layers.{i}.self_attn.o_proj"] = added
        stream = stream + added
        added = block.mlp(block.post_attention_layernorm(stream))
        increments[f"model.layers.{i}.mlp.down_proj"] = added
        stream = stream + added
    return model.lm_head(trunk.norm(stream)), increments


def whole_batch(batches: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Micro-batches of any lengths as one batch: padded on the right, with a mask that says so."""
    length = max(batch["input_ids"].shape[1] for batch in batches)

    def joined(name: str, fill: int, default: Callable[[dict[str, Any]], Tensor] | None = None) -> Tensor:
        parts = [batch[name] if name in batch or default is None else default(batch) for batch in batches]
        return torch.cat([nn.functional.pad(part, (0, length - part.shape[1]), value=fill) for part in parts])

    whole = {
        "input_ids": joined("input_ids", PAD),
        "attention_mask": joined("attention_mask", 0, lambda batch: torch.ones_like(batch["input_ids"])),
    }
    for name, fill in (("labels", -100), ("position_ids", 0), ("completion_mask", 0)):
        if name in batches[0]:
            whole[name] = joined(name, fill)
    return whole


def token_mean(logits: Tensor, batch: dict[str, Tensor], sizes: list[int], smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, as a mean over all tokens of the whole batch that have a label."""
    labels = batch["labels"][:, 1:].flatten()
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels, ignore_index=-100, label_smoothing=smoothing)


def reference_of_step(
    model: nn.Module,
    batches: Sequence[dict[str, Any]],
    radial_lambda: float,
    task_loss: Callable[[Tensor, dict[str, Tensor], list[int]], Tensor] = token_mean,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    """Loss terms and parameter gradients of one optimizer step over `batches`, from the whole batch at once.

    `task_loss` is given the logits of all rows, the whole batch, and how many of its rows came from each of `batches`.
    """
    if model.__class__.__module__.startswith("peft."):
        twin = copy.deepcopy(model).to(dtype).eval()
        base = twin.get_base_model()
    else:
        twin = base = copy.deepcopy(model).to(dtype).eval()
    assert isinstance(base, PreTrainedModel)
    base.set_attn_implementation("eager")
    twin.zero_grad()
    batch = whole_batch(batches)
    logits, increments = {"gpt2": gpt2_forward, "llama": llama_forward}[base.config.model_type](base, batch)
    task = task_loss(logits, batch, [len(part["input_ids"]) for part in batches])
    real, penalty = batch["attention_mask"].bool(), torch.zeros((), dtype=dtype)
    for h in increments.values():
        d = h.shape[-1]
        penalty = penalty + ((h[real].norm(dim=-1) - d**0.5) ** 2).sum() / d / real.sum()
    (task + radial_lambda * penalty).backward()
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    return {"task_loss": task.item(), "radial_penalty": penalty.item(), "gradients": gradients}


class _KeepGradients(TrainerCallback):
    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def keeping(trainer_class: type) -> type:
    """The trainer's class, keeping of every optimizer step its micro-batches, and its gradients just before the optimizer.

    The micro-batches are in `kept_batches`, a list for each step; the gradients are in `kept_gradients`.
    """

    class Keeping(trainer_class):
        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = super().get_batch_samples(*args, **kwargs)
            if batches:
                # Copies: some trainers change the batch that they are given.
                self.__dict__.setdefault("kept_batches", []).append([dict(batch) for batch in batches])
            return batches, items

        def train(self, *args: Any, **kwargs: Any) -> Any:
            if "_keep" not in self.__dict__:
                self._keep = _KeepGradients()
                self.add_callback(self._keep)
            return super().train(*args, **kwargs)

        @property
        def kept_gradients(self) -> list[dict[str, Tensor]]:
            return self._keep.gradients

    return Keeping


def whole_error(measured: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """||measured - expected|| / ||expected|| of the gradient as one vector."""
    if measured.keys() != expected.keys():
        raise ValueError(f"parameters differ: {measured.keys() ^ expected.keys()}")
    difference = sum((measured[n].double() - g.double()).square().sum() for n, g in expected.items())
    return (difference / sum(g.double().square().sum() for g in expected.values())).sqrt().item()


def check_step(
    model: nn.Module,
    batches: Sequence[dict[str, Any]],
    gradients: dict[str, Tensor],
    log: dict[str, float],
    radial_lambda: float,
    task_loss: Callable[[Tensor, dict[str, Tensor], list[int]], Tensor] = token_mean,
    tolerance: float = 1e-6,
) -> None:
    """Gradient and log of one step are those of the whole batch at once; `model` is as it was before the step.

    The gradient as a whole is held to `tolerance` of a float32 reference, and each parameter's to 1e-5 of a float64 one: single
    parameters of small gradient differ by up to 2e-6 from float32's, with and without the penalty, as the order of their sums
    is another one.
    """
    single, double = (
        reference_of_step(model, batches, radial_lambda, task_loss, dtype) for dtype in (torch.float32, torch.float64)
    )
    errors = whole_error(gradients, single["gradients"]), relative_error(gradients, double["gradients"])
    print(f"errors: gradient, float32 {errors[0]:.1e}; worst parameter, float64 {errors[1]:.1e}", end="; ")
    print(f"penalty {abs(log['radial_penalty'] / single['radial_penalty'] - 1):.1e}")
    assert errors[0] < tolerance
    assert errors[1] < 1e-5
    for name in ("task_loss", "radial_penalty"):
        assert abs(log[name] - single[name]) <= 1e-6 * abs(single[name]), (name, log[name], single[name])
    total = single["task_loss"] + radial_lambda * single["radial_penalty"]
    assert abs(log["loss"] - total) <= 1e-6 * abs(total), (log["loss"], total)
