"""The sites of transformers' architectures: found, verified by values, and penalised without the padding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import architectures_worker as worker
import pytest
import torch
import transformers
from zoo import architectures, tiny_inputs, tiny_model, training_batch

from hf_radial import find_sites
from hf_radial.sites.find import Sites, _described

# Each is here for something that the others have not.
QUICK = [
    "causal-lm/gpt2",  # Conv1D
    "causal-lm/llama",
    "causal-lm/qwen3",
    "causal-lm/gemma2",  # the increment is a norm's output
    "causal-lm/olmo2",
    "causal-lm/falcon",  # adds in place into what a sublayer returned
    "causal-lm/gpt_neox",  # attention and MLP in parallel
    "causal-lm/mixtral",  # experts
    "causal-lm/gpt_oss",  # a tuple
    "causal-lm/granite",  # increments scaled by a number
    "causal-lm/qwen3_next",  # linear attention beside attention
    "causal-lm/mamba2",
    "causal-lm/rwkv",
    "causal-lm/xlnet",  # sequence first, and one dropout for two things
    "causal-lm/deepseek_v3",
    "causal-lm/gemma3n_text",  # several streams
    "masked-lm/bert",  # post-norm
    "masked-lm/albert",  # one block for all layers
    "masked-lm/squeezebert",  # channels first
    "masked-lm/mobilebert",  # a projection before each block
    "seq2seq/t5",
    "seq2seq/bart",
    "image/vit",
    "image/swin",
    "image/resnet",  # projection shortcuts, written over in place
]


@pytest.mark.parametrize("name", QUICK)
def test_sites_are_verified_and_penalised_without_the_padding(name):
    task, model_type = name.split("/")
    model = tiny_model(task, model_type)
    report = worker.examine(model, tiny_inputs(task, model))
    assert report["status"] == "verified", report
    report = worker.check_penalty(model, training_batch(task, model))
    assert report["penalty"] == "right", report


@pytest.mark.parametrize("name", ["causal-lm/llama", "masked-lm/bert", "causal-lm/granite", "seq2seq/t5", "image/vit"])
def test_the_self_check_fails_what_is_no_increment(name):
    """Every other module of a block that returns a tensor as wide as the stream."""
    task, model_type = name.split("/")
    model = tiny_model(task, model_type)
    inputs = tiny_inputs(task, model)
    right = find_sites(model, inputs)
    block, width = right[0].layer, right[0].width
    sublayers = [site for site in right if site.layer == block]
    wrong = 0
    for module_name, module in model.named_modules():
        if (
            not module_name.startswith(block + ".")
            or isinstance(module, torch.nn.Dropout)
            or any(True for _ in module.children())
        ):
            continue
        site = _described(module_name, module)
        if site.width == width and module_name not in [s.name for s in sublayers]:
            checks = Sites(model, [site]).verify(inputs)
            assert not all(check.ok for check in checks), (module_name, checks)
            both = Sites(model, [site, *sublayers]).verify(inputs)
            assert not all(check.ok for check in both), (module_name, both)
            wrong += 1
    assert wrong > 0
    missing = Sites(model, sublayers[1:]).verify(inputs)
    assert all(check.how != "replay" for check in missing)


def test_the_committed_table_is_made_from_the_committed_data():
    assert (worker.RESULTS / "architectures.md").read_text() == worker.render(worker.load())


def test_the_committed_data_holds_the_bar():
    newest = worker.load()[0]["architectures"]
    records = [record for record in newest.values() if record["runs"]]
    assert sum(record["status"] == "verified" for record in records) >= 305
    assert all(record["status"] == "verified" or record.get("reason") or record.get("failures") for record in records)
    assert not any(record.get("penalty") == "wrong" for record in records)


@pytest.mark.slow
def test_all_architectures(tmp_path):
    """Writes the results; what of them is committed must not have become worse."""
    output = worker.RESULTS / "architectures" / f"{transformers.__version__}.json"
    before = json.loads(output.read_text())["architectures"] if output.exists() else {}
    subprocess.run([sys.executable, str(Path(worker.__file__)), "--repeat"], check=True, timeout=1800)
    after = json.loads(output.read_text())["architectures"]
    assert set(after) == {f"{task}/{model_type}" for task, model_type in architectures()}
    for key, good in (("status", "verified"), ("penalty", "right")):
        lost = [name for name, record in before.items() if record.get(key) == good != after[name].get(key)]
        assert not lost, f"{key} no longer {good!r}: {lost}"
