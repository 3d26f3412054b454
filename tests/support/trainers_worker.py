"""Which trainers have the exact penalty: one step of each, compared with a float64 reference without hooks.

    python tests/support/trainers_worker.py --write           all cases, here; then recipes/results/trainers.json and .md
    torchrun --nproc_per_node 2 tests/support/trainers_worker.py FOLDER [CASE ...]

Each case is trained twice for one optimizer step with learning rate 0: by the plain trainer, whose model's calls with gradients
are kept, and with `RadialCallback`. The difference of their gradients must be `radial_lambda` times the gradient of

    sum over sites of  1/|V| * sum over h in V of (||h|| - sqrt(d))^2 / d,

which is taken from the kept calls by the model's layers called one by one. All is in float64, so that no error hides in
rounding. `V` are the vectors of all kept calls, of all micro-batches and ranks, that are not padding. The plain run shows, too,
that nothing random is drawn differently. In the cases named "initial radius" the target is not sqrt(d), but each site's mean
radius in the first call of every rank.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from reference import attention_bias, positions_of, tiny_llama
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DataCollatorForSeq2Seq,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)
from trl_rows import sentences, tokenizer

from hf_radial import RadialCallback

LAMBDA = 0.3
TOLERANCE = 1e-5  # Llama's norms and rotations are in float32 always
ROUNDED = 1e-4  # what is logged is rounded by some trainers
VOCABULARY = 13
RESULTS = Path(__file__).parents[2] / "recipes" / "results"
PACKAGE_OF = {"trl": "trl", "trl.experimental": "trl", "transformers": "transformers", "setfit": "setfit"}
PACKAGE_OF["sentence_transformers"] = "sentence-transformers"


# Increments by hand ---------------------------------------------------------------------------------------------------------


def llama_increments(model: Any, call: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What each sublayer adds, and which positions are not padding."""
    trunk, real = model.model, call.get("attention_mask", torch.ones_like(call["input_ids"])).bool()
    stream, found = call.get("inputs_embeds"), []
    if stream is None:
        stream = trunk.embed_tokens(call["input_ids"])
    bias = attention_bias(call, stream.dtype)
    turn = trunk.rotary_emb(stream, position_ids=positions_of(call))
    for block in trunk.layers:
        for added in (
            lambda x, b=block: b.self_attn(b.input_layernorm(x), position_embeddings=turn, attention_mask=bias)[0],
            lambda x, b=block: b.mlp(b.post_attention_layernorm(x)),
        ):
            increment = added(stream)
            found.append((increment, real))
            stream = stream + increment
    return found


def bert_increments(model: Any, call: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    real = call["attention_mask"].bool()
    stream, found = model.embeddings(input_ids=call["input_ids"], token_type_ids=call.get("token_type_ids")), []
    bias = torch.zeros(real.shape, dtype=stream.dtype).masked_fill(~real, torch.finfo(torch.float32).min)[:, None, None]
    for layer in model.encoder.layer:
        increment = layer.attention.output.dense(layer.attention.self(stream, bias.expand(-1, -1, real.shape[1], -1))[0])
        found.append((increment, real))
        stream = layer.attention.output.LayerNorm(increment + stream)
        increment = layer.output.dense(layer.intermediate(stream))
        found.append((increment, real))
        stream = layer.output.LayerNorm(increment + stream)
    return found


def t5_increments(model: Any, call: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    real, labels = call["attention_mask"].bool(), call["labels"]
    given = call.get("decoder_input_ids")
    targets = model._shift_right(labels) if given is None else given
    low, found = torch.finfo(torch.float32).min, []

    def stack(part: Any, ids: Tensor, counted: Tensor, mask: Tensor, memory: Tensor | None = None) -> Tensor:
        stream, bias = model.shared(ids), None
        for block in part.block:
            for sublayer in block.layer:
                normed = sublayer.layer_norm(stream)
                if hasattr(sublayer, "SelfAttention"):
                    if bias is None:
                        length = ids.shape[1]
                        bias = sublayer.SelfAttention.compute_bias(length, length) + mask
                    increment = sublayer.SelfAttention(normed, mask=mask, position_bias=bias)[0]
                elif hasattr(sublayer, "EncDecAttention"):
                    across = torch.zeros(real.shape, dtype=normed.dtype).masked_fill(~real, low)[:, None, None]
                    heads = sublayer.EncDecAttention.n_heads
                    across = across.expand(-1, heads, ids.shape[1], -1)
                    attend = sublayer.EncDecAttention
                    increment = attend(normed, mask=across, key_value_states=memory, position_bias=across)[0]
                else:
                    increment = sublayer.DenseReluDense(normed)
                found.append((increment, counted))
                stream = stream + increment
        return part.final_layer_norm(stream)

    dtype = model.shared.weight.dtype
    memory = stack(
        model.encoder, call["input_ids"], real, torch.zeros(real.shape, dtype=dtype).masked_fill(~real, low)[:, None, None]
    )
    causal = torch.ones(targets.shape[1], targets.shape[1], dtype=torch.bool).tril()
    stack(
        model.decoder,
        targets,
        labels != -100,
        torch.zeros(causal.shape, dtype=dtype).masked_fill(~causal, low)[None, None],
        memory,
    )
    return found


INCREMENTS = {"llama": llama_increments, "bert": bert_increments, "t5": t5_increments}


def penalty_gradient(
    model: nn.Module, calls: list[dict[str, Tensor]], first: list[dict[str, Tensor]] | None = None
) -> tuple[float, dict[str, Tensor]]:
    """The penalty of all these calls together, without `radial_lambda`, and its gradient, in float64.

    The target of a site is its mean radius in the calls of `first`, or the square root of its width.
    """
    twin: Any = copy.deepcopy(model).double().eval()
    for module in twin.modules():
        if hasattr(module, "set_attn_implementation"):
            module.set_attn_implementation("eager")
            break
    inner = transformers_model(twin)
    increments, penalty = INCREMENTS[inner.config.model_type], torch.zeros((), dtype=torch.float64)
    each = [increments(inner, call) for call in calls]
    with torch.no_grad():
        at_first = list(zip(*[increments(inner, call) for call in first], strict=True)) if first else None
    for number, site in enumerate(zip(*each, strict=True)):
        target = site[0][0].shape[-1] ** 0.5
        if at_first is not None:
            target = torch.cat([h[real].norm(dim=-1) for h, real in at_first[number]]).mean().item()
        squares = [(h[real].norm(dim=-1) - target).square() / h.shape[-1] for h, real in site]
        penalty = penalty + torch.cat(squares).mean()
    twin.zero_grad()
    penalty.backward()
    return penalty.item(), {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def transformers_model(model: nn.Module) -> Any:
    return next(m for m in model.modules() if isinstance(m, PreTrainedModel))


# Cases ----------------------------------------------------------------------------------------------------------------------


def common(folder: Path, accumulation: int, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        **more,
    }


def by_length(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(completion.split())) for completion in completions]


def of_trl(name: str, kind: str, where: str = "trl", model: Callable[[], nn.Module] = tiny_llama, **more: Any) -> Callable:
    """A trainer of trl by the name before `Trainer`, and `Config`."""

    def make(folder: Path, accumulation: int, callbacks: list[TrainerCallback]) -> Any:
        import importlib

        options = dict(more)
        module = importlib.import_module(where)
        given = {key: options.pop(key)() for key in ("ref_model", "teacher_model") if key in options}
        given |= {key: options.pop(key) for key in ("reward_funcs",) if key in options}
        args = getattr(module, f"{name}Config")(**common(folder, accumulation, **options))
        given |= {"train_dataset": sentences(kind, 16), "processing_class": tokenizer(), "callbacks": callbacks}
        return getattr(module, f"{name}Trainer")(model=tiny(model, folder), args=args, **given)

    return make


def tiny(make: Callable[[], nn.Module], folder: Path | None = None) -> Any:
    """The model, with an end to what it generates; in `folder`, where a trainer finds it again as the reference model."""
    model: Any = make().double()
    model.config.eos_token_id = model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    if folder is not None:
        model = type(model).from_pretrained(saved(model, folder / "model"))
    return model


def saved(model: Any, where: Path) -> str:
    """The folder, once the first process has written the model there."""
    if int(os.environ.get("RANK", 0)) == 0:
        model.save_pretrained(where)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return str(where)


def tiny_judge() -> nn.Module:
    config = copy.deepcopy(tiny_llama().config)
    config.num_labels = 1
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    model.generation_config = copy.deepcopy(tiny_llama().generation_config)
    return model


def tiny_bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    return BertModel(config)


def sentence_model(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    where = folder / "bert"
    tokenizer().save_pretrained(where)
    part = Transformer(saved(tiny_bert(), where))
    return SentenceTransformer(modules=[part, Pooling(32)], device="cpu").double()


def of_sentences(kind: str, loss: str) -> Callable:
    def make(folder: Path, accumulation: int, callbacks: list[TrainerCallback]) -> Any:
        import sentence_transformers as st
        from sentence_transformers.sentence_transformer import losses

        model = sentence_model(folder)
        args = st.SentenceTransformerTrainingArguments(**common(folder, accumulation))
        return st.SentenceTransformerTrainer(
            model=model, args=args, train_dataset=sentences(kind, 16), loss=getattr(losses, loss)(model), callbacks=callbacks
        )

    return make


def of_setfit(folder: Path, accumulation: int, callbacks: list[TrainerCallback]) -> Any:
    import setfit
    from sklearn.linear_model import LogisticRegression

    model = setfit.SetFitModel(model_body=sentence_model(folder), model_head=LogisticRegression())
    args = setfit.TrainingArguments(str(folder), batch_size=2, max_steps=1, body_learning_rate=0.0, report_to="none")
    args.logging_steps, args.save_strategy = 1, "no"
    trainer = setfit.Trainer(model=model, args=args, train_dataset=sentences("classes", 16), callbacks=callbacks)
    inner = trainer.st_trainer
    inner.args.gradient_accumulation_steps, inner.args.max_grad_norm, inner.args.use_cpu = accumulation, 0.0, True

    class Runner:
        """`train()` of SetFit, and the trainer within."""

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def train(self) -> None:
            rows = trainer.train_dataset
            trainer.train_embeddings(list(rows["text"]), list(rows["label"]))

        def add_callback(self, callback: TrainerCallback) -> None:
            trainer.add_callback(callback)

    return Runner()


def of_seq2seq(folder: Path, accumulation: int, callbacks: list[TrainerCallback]) -> Any:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0, initializer_factor=2.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model, words = T5ForConditionalGeneration(config).double(), tokenizer()

    def encoded(row: dict[str, str]) -> dict[str, Any]:
        return {**words(row["source"], return_token_type_ids=False), "labels": words(row["target"])["input_ids"]}

    rows = sentences("translation", 16).map(encoded, remove_columns=["source", "target"])
    args = Seq2SeqTrainingArguments(
        **common(folder, accumulation, predict_with_generate=True, eval_strategy="steps", eval_steps=1, generation_max_length=6)
    )
    collator = DataCollatorForSeq2Seq(words, model)
    return Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows.select(range(4)),
        data_collator=collator,
        callbacks=callbacks,
    )


def other() -> Any:
    return tiny(lambda: tiny_llama(seed=1))


INITIAL = "initial radius"
GENERATES = {"max_completion_length": 6, "reward_funcs": by_length, "beta": 0.1}
CASES: dict[str, tuple[str, Callable]] = {
    "Seq2SeqTrainer, predict_with_generate": ("transformers", of_seq2seq),
    "SFTTrainer": ("trl", of_trl("SFT", "completion")),
    "DPOTrainer": ("trl", of_trl("DPO", "preference")),
    "KTOTrainer": ("trl", of_trl("KTO", "judged")),
    "RewardTrainer": ("trl", of_trl("Reward", "preference", model=tiny_judge)),
    "GRPOTrainer": ("trl", of_trl("GRPO", "prompt", num_generations=2, **GENERATES)),
    "GRPOTrainer, two iterations": ("trl", of_trl("GRPO", "prompt", num_generations=2, num_iterations=2, **GENERATES)),
    "RLOOTrainer": ("trl", of_trl("RLOO", "prompt", num_generations=2, **GENERATES)),
    "OnlineDPOTrainer": (
        "trl.experimental",
        of_trl("OnlineDPO", "prompt", "trl.experimental.online_dpo", max_new_tokens=6, reward_funcs=by_length),
    ),
    "ORPOTrainer": ("trl.experimental", of_trl("ORPO", "preference", "trl.experimental.orpo")),
    f"ORPOTrainer, {INITIAL}": ("trl.experimental", of_trl("ORPO", "preference", "trl.experimental.orpo")),
    f"GRPOTrainer, {INITIAL}": ("trl", of_trl("GRPO", "prompt", num_generations=2, **GENERATES)),
    "CPOTrainer": ("trl.experimental", of_trl("CPO", "preference", "trl.experimental.cpo")),
    "GKDTrainer": (
        "trl.experimental",
        of_trl(
            "GKD",
            "chat",
            "trl.experimental.gkd",
            max_new_tokens=6,
            lmbda=0.5,
            teacher_model=lambda: tiny(lambda: tiny_llama(1)),
        ),
    ),
    "TPOTrainer": ("trl.experimental", of_trl("TPO", "three", "trl.experimental.tpo")),
    "SentenceTransformerTrainer, MultipleNegativesRankingLoss": (
        "sentence_transformers",
        of_sentences("pairs", "MultipleNegativesRankingLoss"),
    ),
    "SentenceTransformerTrainer, TripletLoss": ("sentence_transformers", of_sentences("triplets", "TripletLoss")),
    "SentenceTransformerTrainer, CachedMultipleNegativesRankingLoss": (
        "sentence_transformers",
        of_sentences("pairs", "CachedMultipleNegativesRankingLoss"),
    ),
    "SetFit": ("setfit", of_setfit),
}


# One step -------------------------------------------------------------------------------------------------------------------


class Keep(TrainerCallback):
    """The gradients just before the optimizer, and what the model was called with where there were gradients."""

    def __init__(self, calls: bool) -> None:
        self.calls: list[dict[str, Tensor]] = []
        self.gradients: dict[str, Tensor] = {}
        self.keeps_calls = calls

    def on_train_begin(self, *args: Any, model: Any, **kwargs: Any) -> None:
        model = kwargs.get("st_model", model)
        self.start = copy.deepcopy(model)
        if self.keeps_calls:
            inner = transformers_model(model)
            plain = inner.forward

            @functools.wraps(plain)  # not a hook: some call `forward` itself
            def forward(*given: Any, **named: Any) -> Any:
                if inner.training and torch.is_grad_enabled():
                    arguments = {**dict(zip(("input_ids",), given, strict=False)), **named}
                    self.calls.append({name: v.clone() for name, v in arguments.items() if isinstance(v, Tensor)})
                return plain(*given, **named)

            inner.forward = forward

    def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
        model = kwargs.get("st_model", model)
        self.gradients = {
            name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }


def one_step(make: Callable, folder: Path, accumulation: int, radial: bool, **options: Any) -> tuple[Keep, dict[str, float]]:
    keep = Keep(calls=not radial)
    callbacks = [RadialCallback(LAMBDA, **options), keep] if radial else [keep]
    torch.manual_seed(7)
    trainer = make(folder, accumulation, callbacks)
    trainer.train()
    return keep, next((log for log in trainer.state.log_history if "radial_penalty" in log), {})


def measure(name: str, folder: Path, accumulation: int) -> dict[str, Any]:
    """How far one step's gradient and logged penalty are from the reference."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    make, initial = CASES[name][1], name.endswith(INITIAL)
    plain, _ = one_step(make, folder, accumulation, radial=False)
    radius = "initial" if initial else "sqrt_d"
    radial, log = one_step(make, folder, accumulation, radial=True, radial_radius=radius)
    torch.save(plain.calls, folder / f"calls_{rank}.pt")
    if processes > 1:
        torch.distributed.barrier()
    each = [torch.load(folder / f"calls_{i}.pt") for i in range(processes)]
    calls = [call for of_rank in each for call in of_rank]
    value, expected = penalty_gradient(plain.start, calls, [of_rank[0] for of_rank in each] if initial else None)
    difference, norm = 0.0, 0.0
    for parameter, gradient in radial.gradients.items():
        added = gradient.double() - plain.gradients.get(parameter, torch.zeros(())).double()
        ours = LAMBDA * expected.get(parameter, torch.zeros((), dtype=torch.float64))
        difference += float((added - ours).square().sum())
        norm += float(ours.square().sum())
    return {
        "calls": len(calls),
        "gradient_error": (difference / norm) ** 0.5,
        "penalty_error": abs(log["radial_penalty"] / value - 1),
        "loss_error": abs(
            log.get("loss", log.get("embedding_loss", 0.0)) / (log["task_loss"] + LAMBDA * log["radial_penalty"]) - 1
        ),
    }


def judged(name: str, folder: Path, accumulation: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    if name == "SetFit" and accumulation > 1:
        return {"refused": "SetFit's arguments have no gradient accumulation"}
    try:
        return measure(name, folder, accumulation)
    except Exception as error:
        traceback.print_exc()
        return {"refused": f"{type(error).__name__}: {error}"}


def write(names: list[str], accumulation: list[int], root: Path) -> None:
    """Run the cases in one process and in two, but those whose results are in `root`, and write the table."""
    rows = []
    for processes in (1, 2):
        folder = root / str(processes)
        folder.mkdir(exist_ok=True)
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
        files = {(name, steps): folder / f"{name}_{steps}.json" for name in names for steps in accumulation}
        missing = list(dict.fromkeys(name for (name, _), file in files.items() if not file.is_file()))
        if missing:
            command = [sys.executable, *start, __file__, str(folder), *missing, "--accumulation", *map(str, accumulation)]
            subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
        for (name, steps), file in files.items():
            result = json.loads(file.read_text()) if file.is_file() else {"refused": "it ended without a result"}
            rows.append({"trainer": name, "processes": processes, "accumulation": steps, **result})
    packages = {name: CASES[name][0] for name in names}
    data = {
        "radial_lambda": LAMBDA,
        "versions": {package: installed(package) for package in ("torch", "transformers", "accelerate", *PACKAGE_OF.values())},
        "package": packages,
        "rows": rows,
    }
    (RESULTS / "trainers.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / "trainers.md").write_text(table(data))


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def verdict(row: dict[str, Any]) -> str:
    """`exact`, or why not."""
    if "refused" in row:
        return textwrap.shorten(f"refused: {row['refused']}", 120, placeholder=" ...")
    worst = max(row["gradient_error"], row["penalty_error"])
    return f"exact ({worst:.0e})" if worst < TOLERANCE and row["loss_error"] < ROUNDED else f"WRONG ({worst:.0e})"


def table(data: dict[str, Any]) -> str:
    """The rows of `trainers.json` as Markdown."""
    splits = list(dict.fromkeys((row["processes"], row["accumulation"]) for row in data["rows"]))
    heads = [f"{p} process{'es' if p > 1 else ''}, {a} micro-batch{'es' if a > 1 else ''}" for p, a in splits]
    lines = [
        "# Trainers with the penalty",
        "",
        "Made by `make trainers`. One optimizer step of each trainer with `RadialCallback`, beside a",
        "float64 reference without hooks that calls the model's layers by hand on what the model was called with. In brackets:",
        "the larger of the relative errors of the penalty's gradient and of the logged penalty. Training is in float64; sums",
        "for the log, the weights of micro-batches and parts of Llama are in float32.",
        "",
        "| trainer | package | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(heads),
    ]
    for name, where in data["package"].items():
        found = {(row["processes"], row["accumulation"]): verdict(row) for row in data["rows"] if row["trainer"] == name}
        package = PACKAGE_OF[where]
        cells = " | ".join(found[split].replace("|", "\\|") for split in splits)
        lines.append(f"| {name} | {where} {data['versions'][package]} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", help="for each case's result, CASE_ACCUMULATION.json; those there are kept")
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--accumulation", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--write", action="store_true", help="write recipes/results/trainers.json and .md")
    options = parser.parse_args()
    if options.write:
        with tempfile.TemporaryDirectory() as temporary:
            write(options.cases or list(CASES), options.accumulation, Path(options.folder or temporary))
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        PartialState(cpu=True)
    folder = Path(options.folder)
    for name in options.cases or CASES:
        for accumulation in options.accumulation:
            result = judged(name, folder / f"{name}_{accumulation}", accumulation)
            print(name, accumulation, result, flush=True)
            if int(os.environ.get("RANK", 0)) == 0:
                (folder / f"{name}_{accumulation}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
