"""Does the penalty do harm where there is nothing to grok? A small transformer of characters, with the penalty and without.

    curl -O https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
    python recipes/harmless.py --file input.txt          # Tiny Shakespeare, as the paper; an hour on one core
    python recipes/harmless.py --corpus pydoc            # without a download: the reference texts that Python ships
    python recipes/harmless.py --corpus generated        # or synthetic plays
    python recipes/harmless.py --file input.txt --size 10.6M --seeds 0 --bf16 --arms "penalty 0.01 (paper)"   # a nanoGPT

What one seed of the 10.6M says was written down before it ran: the answer of the small size holds for an arm if its held-out
loss differs from that without a penalty in the same direction by 0.01 or more, is contradicted if it does so in the other one,
and is undecided otherwise.

Held-out loss is the task loss without the penalty, on windows of the last tenth of the text; the effective rank is that of the
last layer's feed-forward output on the same windows. The paper trains about 500,000 parameters and reports 1.585 (effective
rank 94) without the penalty and 1.608 (108) with it. Data and table go to recipes/results/harmless.{json,md}, those of a corpus
or another size to harmless_CORPUS_SIZE. They are written after each run. With `--go-on` only the runs are made that are not
there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm.auto import tqdm  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.runs import text_files
from hf_radial.runs.record import describe_environment, made_on
from hf_radial.runs.script import run_recipe
from hf_radial.safe_files import write_text
from hf_radial.tasks.text import CORPORA

RESULTS = Path(__file__).resolve().parent / "results"
NO_PENALTY = "no penalty"
ARMS: dict[str, dict[str, Any]] = {
    NO_PENALTY: {"radial_lambda": 0.0},
    "penalty 0.01 (paper)": {"radial_lambda": 0.01},
    "penalty 0.05": {"radial_lambda": 0.05},
    "penalty 0.05, initial radius": {"radial_lambda": 0.05, "radial_radius": "initial"},
    "penalty 0.5, initial radius": {"radial_lambda": 0.5, "radial_radius": "initial"},
    "one-sided 0.01": {"radial_lambda": 0.01, "radial_side": "above"},
}
SIZES: dict[str, dict[str, Any]] = {
    "0.4M": {"n_embd": 128, "n_layer": 2, "n_head": 4},
    "10.6M": {"n_embd": 384, "n_layer": 6, "n_head": 6},
}
SMALL = "0.4M"  # its files have no size in their names
LENGTH, BATCH, HELD_OUT_WINDOWS = 64, 16, 400
STEPS, SEEDS = 3000, [0, 1, 2]
LEARNING_RATE = 1e-3  # recipes/harmless_tuned.py tries others


def read_text(file: Path | None, corpus: str) -> tuple[str, str]:
    """The text of the file, or of the corpus where there is none, and what it is called in the table.

    Raises:
        ValueError: the file is not there, or has fewer characters than ten windows.
    """
    if file is None:
        from hf_radial.tasks.load import load_task

        data: Any = load_task("text", corpus=corpus)
        return "".join("".join(data[split]["text"]) for split in ("train", "validation", "test")), corpus
    if not file.is_file():
        raise ValueError(f"--file {str(file)!r} does not exist; for a text without a download, give --corpus {corpus} instead")
    text = text_files.read_text(file)
    if len(text) < 100 * LENGTH:
        raise ValueError(f"--file {str(file)!r} has {len(text)} characters; at least {100 * LENGTH} are needed")
    return text, file.name


def describe_text(text: str, name: str) -> dict[str, Any]:
    """What a file of results says of its text."""
    return {"name": name, "characters": len(text), "sha256": sha256(text.encode()).hexdigest()}


def run(
    text: str, size: str, arm: dict[str, Any], seed: int, steps: int, bf16: bool, learning_rate: float = LEARNING_RATE
) -> dict[str, Any]:
    """Train one model; its losses, and the radius and effective rank of its last feed-forward layer."""
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed
    from transformers.trainer_callback import PrinterCallback

    from hf_radial import RadialArguments, RadialTrainer, measure
    from hf_radial.tasks.windows import CharacterWindows

    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = [alphabet[character] for character in text]
    cut = len(ids) * 9 // 10
    held_out = CharacterWindows(ids[cut:], LENGTH, HELD_OUT_WINDOWS, seed=0)
    set_seed(seed)
    config = GPT2Config(vocab_size=len(alphabet), n_positions=LENGTH, bos_token_id=None, eos_token_id=None, **SIZES[size])
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    model: Any = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"
    with tempfile.TemporaryDirectory() as folder:
        args = RadialArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=100,
            learning_rate=learning_rate,
            warmup_steps=min(100, steps // 10),
            lr_scheduler_type="cosine",
            weight_decay=0.1,
            seed=seed,
            bf16=bf16,
            use_cpu=not torch.accelerator.is_available(),  # bfloat16 on a CPU has to be asked for
            logging_steps=max(1, steps // 10),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **arm,
        )
        trainer = RadialTrainer(
            model=model,
            args=args,
            train_dataset=CharacterWindows(ids[:cut], LENGTH, steps * BATCH, seed=seed),
            eval_dataset=held_out,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
        logged = [entry["task_loss"] for entry in trainer.state.log_history if "task_loss" in entry]
        device = trainer.args.device
    rows = [held_out[i] for i in range(64)]
    batch = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
    found = measure(model, batch, ["radial", "spectrum"]).logs()
    site = f"transformer.h.{config.n_layer - 1}.mlp.c_proj"
    kept = {name: value for name, value in found.items() if name.startswith(f"geometry/{site}/")}
    return {
        "seed": seed,
        "held_out_loss": loss,
        "train_loss": logged[-1],
        "radius": kept[f"geometry/{site}/radius_mean"],
        "effective_rank": kept[f"geometry/{site}/effective_rank"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def costs(arms: dict[str, list[dict[str, Any]]], arm: str) -> list[float]:
    """By how much the held-out loss of each run of an arm is above that without a penalty, on the same seed."""
    base = {run["seed"]: run["held_out_loss"] for run in arms[NO_PENALTY]}
    return [run["held_out_loss"] - base[run["seed"]] for run in arms[arm]]


def markdown(data: dict[str, Any]) -> str:
    """The table of the data, with each seed's difference from no penalty. Runs that are not there yet are left out."""
    text = data["text"]
    runs: dict[str, list[dict[str, Any]]] = data["arms"]
    seeds = len(runs[NO_PENALTY])
    lines = [
        "# Is the penalty harmless where there is nothing to grok?",
        "",
        f"`{data['command']}` on {text['name']} ({text['characters']:,} characters, SHA-256 {text['sha256'][:12]}), "
        f"{data['steps']:,} steps of {data['batch']} windows of {data['length']} characters, "
        f"{runs[NO_PENALTY][0]['parameters']:,} parameters; {made_on(data['environment'])}, revision "
        f"{data['environment']['revision']}{', bfloat16' * data.get('bf16', False)}. "
        f"{'One seed' if seeds == 1 else f'Medians over {seeds} seeds'}.",
        "",
        "| arm | held-out loss | minus no penalty, by seed | training loss | effective rank | radius |",
        "|---|---|---|---|---|---|",
    ]
    for arm, found in runs.items():
        if not found:
            continue
        middle = {
            name: median(run[name] for run in found) for name in ("held_out_loss", "train_loss", "effective_rank", "radius")
        }
        apart = ", ".join(f"{cost:+.3f}" for cost in costs(runs, arm))
        lines.append(
            f"| {arm} | {middle['held_out_loss']:.3f} | {apart} | {middle['train_loss']:.3f} | "
            f"{middle['effective_rank']:.1f} | {middle['radius']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> Path:
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--file", type=Path, help="the text")
    which.add_argument("--corpus", choices=CORPORA, default="pydoc", help="without a file: a text of the task (%(default)s)")
    parser.add_argument("--size", choices=SIZES, default=SMALL, help="number of parameters (%(default)s)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="some of them; 'no penalty' is always run")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast: faster on processors with units for it")
    parser.add_argument("--go-on", action="store_true", help="keep the runs that the results have, and make the others")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where data and table go (%(default)s)")
    options = parser.parse_args(argv)
    if options.steps < 1 or len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"--steps {options.steps} must be at least 1, and --seeds {options.seeds} each once")
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    text, name = read_text(options.file, options.corpus)
    names = [arm for arm in ARMS if arm in options.arms or arm == NO_PENALTY]
    data = {
        "environment": describe_environment(),
        "text": describe_text(text, name),
        "steps": options.steps,
        "batch": BATCH,
        "length": LENGTH,
        "model": SIZES[options.size],
        "bf16": options.bf16,
        "options": {arm: ARMS[arm] for arm in names},
        "arms": {arm: [] for arm in names},
    }
    options.results.mkdir(parents=True, exist_ok=True)
    parts = ["harmless", *([] if options.file else [name]), *([] if options.size == SMALL else [options.size])]
    file = options.results / f"{'_'.join(parts)}.json"
    if options.go_on and file.is_file():
        data["arms"] |= runs_there(file, data)
    there = {arm: [run["seed"] for run in runs] for arm, runs in data["arms"].items()}
    seeds = list(dict.fromkeys([*there[NO_PENALTY], *options.seeds]))
    data = {"command": command_of(options, name, seeds, names), **data}
    todo = [(seed, arm) for seed in options.seeds for arm in names if seed not in there[arm]]
    with tqdm(total=len(todo), unit="run", dynamic_ncols=True) as bar:
        for seed, arm in todo:
            data["arms"][arm].append(run(text, options.size, ARMS[arm], seed, options.steps, options.bf16))
            write_text(file, json.dumps(data, indent=1) + "\n")
            write_text(table_of(file), markdown(data))
            bar.set_postfix_str(f"{arm}: {data['arms'][arm][-1]['held_out_loss']:.3f}")
            bar.update()
    print(markdown(data))
    return table_of(file)


def command_of(options: argparse.Namespace, name: str, seeds: list[int], arms: list[str]) -> str:
    """The command that makes these runs: every option that is not as by default. `name` is that of the file of text."""
    words = ["--file" if options.file else "--corpus", name]
    words += ["--size", options.size] if options.size != SMALL else []
    words += ["--seeds", *map(str, seeds)] if seeds != SEEDS else []
    words += ["--steps", str(options.steps)] if options.steps != STEPS else []
    words += ["--bf16"] if options.bf16 else []
    words += ["--arms", *arms] if arms != list(ARMS) else []
    return shlex.join(["python", "recipes/harmless.py", *words])


def table_of(file: Path) -> Path:
    """The table beside the data, whose name may have a dot in it."""
    return file.parent / f"{file.name.removesuffix('.json')}.md"


def runs_there(file: Path, data: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The runs of a file of results, by arm.

    Raises:
        ValueError: its runs were made with other options.
    """
    there = {"bf16": False, **json.loads(file.read_text())}
    for key in ("text", "steps", "batch", "length", "model", "bf16", "options"):
        if there.get(key) != data[key]:
            raise ValueError(f"--go-on: the runs in {file} have another {key}; leave out --go-on to make them anew")
    runs: dict[str, list[dict[str, Any]]] = there["arms"]
    return runs


if __name__ == "__main__":
    run_recipe(main)
