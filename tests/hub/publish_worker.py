"""Trains a tiny model and publishes it from the command line in many ways, to the Hub at HF_ENDPOINT; writes what came of each.

HF_ENDPOINT=... HF_TOKEN=dummy PYTHONPATH=tests:tests/hub python tests/hub/publish_worker.py FOLDER
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

from hub_client import HubClient
from reference import tiny_gpt2, token_rows
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, TrainingArguments, default_data_collator

from hf_radial import RadialTrainer
from hf_radial.cli.main import main as cli
from hf_radial.hub import retry

retry.FIRST_WAIT, retry.PATIENCE = 0.05, 2.0
HUB = HubClient(os.environ.get("HF_ENDPOINT", ""))  # imported without one where doctests are collected


def train(folder):
    words = Tokenizer(WordLevel({"[UNK]": 0, **{f"w{i}": i for i in range(1, 8)}}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=6,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    rows = token_rows(16, True)
    trainer = RadialTrainer(
        model=tiny_gpt2(),
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        radial_lambda=0.3,
        data_collator=default_data_collator,
    )
    trainer.run_facts = {"title": "Sums", "task": "sums"}
    trainer.train()
    trainer.save_model()
    keep_weights(trainer.model, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        keep_weights(type(trainer.model).from_pretrained(checkpoint), checkpoint)
    (folder / "curves.png").write_bytes(b"a figure")
    (folder / "secrets.env").write_text("TOKEN=1")
    return trainer


def keep_weights(model, folder):
    """All of them: the head shares its weights with the embedding, so it is not in the model's own file."""
    kept = folder.parent / "kept" if folder.name == "sums" else folder.parents[1] / "kept"
    kept.mkdir(exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, kept / f"{folder.name}.safetensors")


def publish(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli(["publish", "model", *map(str, words)])
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def main(root):
    folder, found = root / "sums", {}
    trainer = train(folder)
    found["plain"] = publish(folder, "--repo", "org/plain")
    found["again"] = publish(folder, "--repo", "org/plain")
    found["all"] = publish(folder, "--repo", "org/all", "--checkpoints", "all", "--private")
    found["all again"] = publish(folder, "--repo", "org/all", "--checkpoints", "all", "--private")
    found["last"] = publish(folder, "--repo", "org/last", "--checkpoints", "last", "--revision", "trial/1")

    # A card that was written here, with results that only it knows.
    trainer.run_facts["results"] = {"test": {"exact_match": 0.75, "problems": 8}}
    trainer.create_model_card()
    found["local card"] = publish(folder, "--repo", "org/local-card", "--checkpoints", "last")

    # Shards, over what was published as one file.
    sharded = root / "sharded"
    shutil.copytree(folder, sharded)
    (sharded / "model.safetensors").unlink()
    trainer.model.save_pretrained(sharded, max_shard_size="40KB")
    found["sharded"] = publish(sharded, "--repo", "org/plain", "--revision", "shards")

    HUB.fail(method="POST", path="/org/rough/commit/", status=503, times=2)
    HUB.fail(method="POST", path="/org/rough/branch/", drop="answer", times=2)
    found["rough"] = publish(folder, "--repo", "org/rough", "--checkpoints", "all")

    begun = len(HUB.requests())
    for name, words in mistakes(root, folder, sharded).items():
        found[name] = publish(*words)
    found["asked nothing"] = len(HUB.requests()) == begun
    found["public"] = publish(folder, "--repo", "org/plain", "--private")
    found["read-only"] = publish(folder, "--repo", "org/plain", "--token", "readonly")
    (root / "found.json").write_text(json.dumps(found))


def mistakes(root, folder, sharded):
    def copy(name, source=folder):
        return Path(shutil.copytree(source, root / name))

    empty, cut, odd = copy("empty"), copy("cut"), copy("odd", sharded)
    (empty / "model.safetensors").unlink()
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    shard = sorted(odd.glob("model-*.safetensors"))[0]
    tensors = load_file(shard)
    lacking = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != lacking} or {"other": tensors[lacking]}, shard)
    gone, late, bare, plain = copy("gone", sharded), copy("late"), copy("bare"), copy("no-record")
    sorted(gone.glob("model-*.safetensors"))[0].unlink()
    (late / "checkpoint-4/model.safetensors").write_bytes(b"")
    for checkpoint in bare.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (plain / "run.json").unlink()
    repo = ("--repo", "org/mistakes")
    return {
        "no folder": (root / "nowhere", *repo),
        "no weights": (empty, *repo),
        "cut off": (cut, *repo),
        "lacks a tensor": (odd, *repo),
        "lacks a shard": (gone, *repo),
        "bad checkpoint": (late, *repo, "--checkpoints", "all"),
        "no checkpoints": (bare, *repo, "--checkpoints", "last"),
        "no record": (plain, *repo),
        "bad name": (folder, "--repo", "org/a name"),
        "no owner": (folder, "--repo", "name"),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
