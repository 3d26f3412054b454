"""In any architecture, a step has the plain trainer's gradient plus that of the penalty over the whole effective batch.

The penalty's definition, `sum over sites of mean over vectors that are not padding of (||h|| - sqrt(d))^2 / d`, is computed
here on all rows at once, without hooks: the sites are named by hand, and their modules' `forward` is wrapped in a copy of the
model.
"""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from pages import TEXT
from reference import whole_error
from torch import Tensor, nn
from transformers import (
    DataCollatorWithFlattening,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
    default_data_collator,
)
from zoo import tiny_model, training_batch

from hf_radial import RadialCallback, RadialMixin, RadialPenalty, RadialTrainer
from runs import KeepGradients, one_step_arguments

LAMBDA, ROWS = 0.3, 7
ENCODER, DECODER = "attention_mask", "decoder_attention_mask"
# task, then for each site's pattern the mask that tells its padding
CASES: dict[str, tuple[str, dict[str, str | None]]] = {
    "gpt2": ("causal-lm", {"*.c_proj": ENCODER}),
    "llama": ("causal-lm", {"*.o_proj": ENCODER, "*.down_proj": ENCODER}),
    "gemma2": ("causal-lm", {"*.post_attention_layernorm": ENCODER, "*.post_feedforward_layernorm": ENCODER}),
    "falcon": ("causal-lm", {"*.self_attention.dense": ENCODER, "*.dense_4h_to_h": ENCODER}),  # adds in place
    "gpt_neox": ("causal-lm", {"*.attention.dense": ENCODER, "*.dense_4h_to_h": ENCODER}),  # sublayers in parallel
    "mixtral": ("causal-lm", {"*.o_proj": ENCODER, "*.layers.?.mlp": ENCODER}),  # experts
    "gpt_oss": ("causal-lm", {"*.o_proj": ENCODER, "*.layers.?.mlp": ENCODER}),  # experts, and the output is a tuple
    "mamba2": ("causal-lm", {"*.out_proj": ENCODER}),
    "bert": ("masked-lm", {"*.attention.output.dense": ENCODER, "*.layer.?.output.dense": ENCODER}),
    "albert": ("masked-lm", {"*.attention.dense": ENCODER, "*.ffn_output": ENCODER}),  # one block for all layers
    "squeezebert": ("masked-lm", {"*.post_attention.conv1d": ENCODER, "*.layers.?.output.conv1d": ENCODER}),  # channels first
    "t5": ("seq2seq", {"encoder.*.[os]": ENCODER, "encoder.*.wo": ENCODER, "decoder.*.o": DECODER, "decoder.*.wo": DECODER}),
    "bart": (
        "seq2seq",
        {
            **{f"model.encoder.layers.?.{name}": ENCODER for name in ("self_attn.out_proj", "fc2")},
            **{f"model.decoder.layers.?.{name}": DECODER for name in ("self_attn.out_proj", "encoder_attn.out_proj", "fc2")},
        },
    ),
    "vit": ("image", {"*.o_proj": None, "*.fc2": None}),
    "resnet": ("image", {"*.layers.?.layer.2.normalization": None}),  # channels first, and adds in place
}
CHANNELS_FIRST = ("squeezebert", "resnet")
CHECKPOINTED = [name for name in CASES if name not in ("albert", "resnet", "squeezebert", "mamba2")]


def named_by_hand(model: nn.Module, patterns: dict[str, str | None]) -> dict[str, str | None]:
    return {n: mask for n, _ in model.named_modules() for pattern, mask in patterns.items() if fnmatchcase(n, pattern)}


def penalty_by_definition(
    model: nn.Module, batch: dict[str, Tensor], sites: dict[str, str | None], dtype: torch.dtype, dim: int = -1
) -> tuple[float, dict[str, Tensor]]:
    """Value and gradient of the penalty over all rows of `batch` at once."""
    twin, seen = copy.deepcopy(model).to(dtype), {name: [] for name in sites}
    if hasattr(twin.config, "_experts_implementation"):
        twin.set_experts_implementation("eager")  # the others know no float64
    for name in sites:
        module = twin.get_submodule(name)

        def recorded(*args: Any, plain: Any = module.forward, name: str = name, **kwargs: Any) -> Any:
            out = plain(*args, **kwargs)
            seen[name].append((out[0] if isinstance(out, tuple) else out).clone())
            return out

        module.forward = recorded
    twin(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()})
    total = torch.zeros((), dtype=dtype)
    for name, mask in sites.items():
        real = batch["labels"] != -100 if mask == DECODER else None if mask is None else batch[mask].bool()
        vectors = [h.movedim(dim, -1) for h in seen[name]]
        r = torch.cat([(h.flatten(0, -2) if real is None else h.reshape(*real.shape, -1)[real]).norm(dim=-1) for h in vectors])
        d = vectors[0].shape[-1]
        total = total + ((r - d**0.5) ** 2).mean() / d
    total.backward()
    return total.item(), {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


class Frozen(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False)


def one_step(
    trainer_class: Any,
    model: nn.Module,
    rows: list[Any],
    folder: Any,
    callbacks: Any = (),
    arguments: Any = TrainingArguments,
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients and log of one optimizer step over three micro-batches: of three rows, three, and one."""
    collator = options.pop("data_collator", default_data_collator)
    trainer_options = {name: options.pop(name) for name in list(options) if name.startswith("radial_")}
    args = one_step_arguments(
        folder,
        arguments,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=3,
        **options,
    )
    keep = KeepGradients()
    trainer = trainer_class(
        model=model, args=args, train_dataset=rows, data_collator=collator, callbacks=[*callbacks, keep], **trainer_options
    )
    trainer.train()
    return keep.gradients, trainer.state.log_history[0]


def rows_of(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{name: tensor[i] for name, tensor in batch.items()} for i in range(len(batch["labels"]))]


def case(name: str, side: str = "right") -> tuple[nn.Module, dict[str, Tensor], dict[str, str | None]]:
    task, patterns = CASES[name]
    model = tiny_model(task, name)
    if hasattr(model.config, "router_aux_loss_coef"):
        model.config.router_aux_loss_coef = 0.0  # a mean over a micro-batch, whatever we do
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # its statistics would be a micro-batch's
            module.__class__ = Frozen
    batch = {k: v for k, v in training_batch(task, model, rows=ROWS).items() if isinstance(v, Tensor)}
    if side == "left":
        batch = {k: v.flip(1) if v.ndim == 2 else v for k, v in batch.items()}
    return model, batch, named_by_hand(model, patterns)


def check(plain: dict[str, Tensor], gradients: dict[str, Tensor], log: dict[str, float], model, batch, sites, dim=-1):
    # What is not the penalty is the plain trainer's, in float32: against float64 its own rounding shows, most where logits
    # are large.
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-6)):
        value, of_penalty = penalty_by_definition(model, batch, sites, dtype, dim)
        zero = {name: torch.zeros_like(p, dtype=dtype) for name, p in model.named_parameters()}
        expected = {name: zero[name] + plain.get(name, 0) + LAMBDA * of_penalty.get(name, 0) for name in zero}
        error = whole_error({**zero, **gradients}, expected)
        print(f"{dtype}: gradient {error:.1e}, penalty {abs(log['radial_penalty'] / value - 1):.1e}")
        assert error < tolerance
        assert log["radial_penalty"] == pytest.approx(value, rel=1e-6)
    assert whole_error({**zero, **plain}, expected) > 1e-3, "the penalty would not be missed"


@pytest.mark.parametrize("name", CASES)
def test_accumulation_over_uneven_micro_batches(name, tmp_path):
    model, batch, sites = case(name)
    assert sites
    trained = [copy.deepcopy(model) for _ in range(3)]
    plain, _ = one_step(Trainer, trained[0], rows_of(batch), tmp_path)
    dim = 1 if name in CHANNELS_FIRST else -1
    gradients, log = one_step(RadialTrainer, trained[1], rows_of(batch), tmp_path, radial_lambda=LAMBDA)
    assert {key.removeprefix("radius/") for key in log if key.startswith("radius/")} == set(sites)
    check(plain, gradients, log, model, batch, sites, dim)
    by_callback, _ = one_step(Trainer, trained[2], rows_of(batch), tmp_path, callbacks=[RadialCallback(LAMBDA)])
    assert all(torch.equal(gradients[n], by_callback[n]) for n in gradients), "another door, another gradient"


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart", "bert"])
def test_padding_on_the_left(name, tmp_path):
    model, batch, sites = case(name, side="left")
    plain, _ = one_step(Trainer, copy.deepcopy(model), rows_of(batch), tmp_path)
    gradients, log = one_step(RadialTrainer, copy.deepcopy(model), rows_of(batch), tmp_path, radial_lambda=LAMBDA)
    check(plain, gradients, log, model, batch, sites)


def test_packed_rows(tmp_path):
    """All documents of a micro-batch in one row, told apart by their positions; none is padded."""
    model, batch, sites = case("llama")
    model.set_attn_implementation("eager")
    kept = batch["attention_mask"].bool()
    rows = [{"input_ids": ids[k].tolist(), "labels": ids[k].tolist()} for ids, k in zip(batch["input_ids"], kept, strict=True)]
    options = {"data_collator": DataCollatorWithFlattening(), "remove_unused_columns": False}
    plain, _ = one_step(Trainer, copy.deepcopy(model), rows, tmp_path, **options)
    gradients, log = one_step(RadialTrainer, copy.deepcopy(model), rows, tmp_path, radial_lambda=LAMBDA, **options)
    batch["labels"] = batch["input_ids"].masked_fill(~kept, -100)
    check(plain, gradients, log, model, batch, sites)


@pytest.mark.parametrize("door", ["mixin", "callback"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_seq2seq_trainer(name, smoothing, door, tmp_path):
    """With label smoothing the model is called without the labels, which tell the decoder's padding."""
    model, batch, sites = case(name)

    class RadialSeq2SeqTrainer(RadialMixin, Seq2SeqTrainer):
        pass

    options = {"arguments": Seq2SeqTrainingArguments, "label_smoothing_factor": smoothing}
    plain, _ = one_step(Seq2SeqTrainer, copy.deepcopy(model), rows_of(batch), tmp_path, **options)
    if door == "mixin":
        ours = one_step(RadialSeq2SeqTrainer, copy.deepcopy(model), rows_of(batch), tmp_path, radial_lambda=LAMBDA, **options)
    else:
        ours = one_step(
            Seq2SeqTrainer, copy.deepcopy(model), rows_of(batch), tmp_path, callbacks=[RadialCallback(LAMBDA)], **options
        )
    check(plain, *ours, model, batch, sites)


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_gradient_checkpointing(name, tmp_path):
    model, batch, sites = case(name)
    assert model.supports_gradient_checkpointing
    twin = copy.deepcopy(model)
    plain, _ = one_step(Trainer, copy.deepcopy(model), rows_of(batch), tmp_path)
    gradients, log = one_step(RadialTrainer, twin, rows_of(batch), tmp_path, radial_lambda=LAMBDA, gradient_checkpointing=True)
    assert twin.is_gradient_checkpointing
    check(plain, gradients, log, model, batch, sites)


@pytest.mark.parametrize("name", CASES)
def test_a_loop_of_ones_own(name):
    model, batch, sites = case(name)
    twin, dim = copy.deepcopy(model), 1 if name in CHANNELS_FIRST else -1
    twin(**batch).loss.backward()
    plain = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
    ours = copy.deepcopy(model).train()
    with RadialPenalty(ours, LAMBDA) as penalty:
        loss = ours(**batch).loss
        value = penalty()
        (loss + value).backward()
    gradients = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    check(plain, gradients, {"radial_penalty": value.item() / LAMBDA}, model, batch, sites, dim)


def test_the_architectures_that_are_counted_are_those_of_the_tests():
    assert (len(CASES), len(CHECKPOINTED)) == (15, 11)
    assert "| fifteen architectures: " in TEXT and "| gradient checkpointing, eleven architectures |" in TEXT
