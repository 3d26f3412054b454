"""`hf-radial publish model`: the model, its card and its record arrive on the Hub; mistakes are found before the upload."""

from __future__ import annotations

import json

import pytest
from hub_client import HERE, WITHOUT_US, run_with
from huggingface_hub import ModelCard

PUBLISHED = {
    *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("README.md", "run.json", "curves.png", ".gitattributes"),
}
# What the message names, beside saying what is wrong.
MISTAKES = {
    "no folder": ("nowhere", "is not a folder"),
    "no weights": ("empty has no model.safetensors", "save_model()"),
    "cut off": ("cut/model.safetensors is missing or damaged",),
    "lacks a tensor": ("odd/model-00001", "lacks 1 tensors"),
    "lacks a shard": ("gone/model-00001", "is missing or damaged"),
    "bad checkpoint": ("late/checkpoint-4/model.safetensors is missing or damaged",),
    "no checkpoints": ("bare has no checkpoint-N folders", "save_strategy"),
    "no record": ("no-record/run.json is missing",),
    "bad name": ("org/a name",),
    "no owner": ("'name' has no owner", "ORG/NAME"),
}


@pytest.fixture(scope="module")
def root(hub, tmp_path_factory):
    """The folder in which `publish_worker.py` trained, and published what it trained."""
    root = tmp_path_factory.mktemp("published")
    run_with(hub, root, str(HERE / "publish_worker.py"), str(root))
    return root


@pytest.fixture(scope="module")
def found(root):
    return json.loads((root / "found.json").read_text())


def test_the_model_goes_up_in_one_commit_without_pickles_and_what_else_lies_about(hub, root, found):
    assert found["plain"]["status"] == 0 and found["plain"]["out"] == f"{hub.url}/org/plain\n"
    assert hub.files("org/plain") - {"trainer_state.json"} == PUBLISHED
    assert hub.history("org/plain") == ["Publish sums", "initial commit"]  # though it was published twice
    assert found["again"]["status"] == 0
    for name in ("model.safetensors", "run.json", "curves.png"):
        assert hub.file("org/plain", name) == (root / "sums" / name).read_bytes()


def test_every_checkpoint_becomes_a_branch(hub, found):
    assert found["all"]["status"] == found["all again"]["status"] == 0
    assert hub.is_private("org/all")
    assert hub.branches("org/all") == {"main", "step-2", "step-4", "step-6"}
    for step in (2, 4, 6):
        assert hub.files("org/all", f"step-{step}") == PUBLISHED | {"trainer_state.json"}
        assert hub.history("org/all", f"step-{step}") == [f"Publish step {step}", "Publish sums", "initial commit"]
    assert found["last"]["status"] == 0
    assert hub.branches("org/last") == {"main", "trial/1", "step-6"}
    assert hub.history("org/last") == ["initial commit"]


def test_a_process_without_hf_radial_loads_every_branch(hub, root, tmp_path):
    kept = {
        **{f"org/all@step-{step}": f"checkpoint-{step}" for step in (2, 4, 6)},
        "org/all": "sums",
        "org/plain@shards": "sums",
    }
    run_with(
        hub, tmp_path, "-c", WITHOUT_US, json.dumps({name: str(root / f"kept/{of}.safetensors") for name, of in kept.items()})
    )


def test_a_missing_card_is_made_from_record_and_log(hub, root):
    card = ModelCard(hub.file("org/plain", "README.md").decode())
    assert "hf_radial" in card.data.tags and "# Sums\n" in card.text
    assert 'from_pretrained("org/plain")' in card.text and "optimizer steps done: 6" in card.text
    log = json.loads((root / "sums/checkpoint-6/trainer_state.json").read_text())["log_history"]
    radii = [f"{logs['radius/transformer.h.0.mlp.c_proj']:.2f}" for logs in log if "loss" in logs]
    assert f"| `transformer.h.0.mlp.c_proj` | 32 | 5.66 | {radii[0]} | {radii[-1]} |" in card.text


def test_the_card_of_a_checkpoint_is_about_its_step(hub, root):
    card = ModelCard(hub.file("org/local-card", "README.md", "step-6").decode())
    assert "# Sums, step 6\n" in card.text and 'from_pretrained("org/local-card", revision="step-6")' in card.text
    assert "75.00%" not in card.text
    early = ModelCard(hub.file("org/all", "README.md", "step-2").decode())
    assert "optimizer steps done: 2" in early.text
    log = json.loads((root / "sums/checkpoint-2/trainer_state.json").read_text())["log_history"]
    assert f"| {log[-1]['radius/transformer.h.1.attn.c_proj']:.2f} |" in early.text


def test_a_card_that_was_written_here_keeps_its_results_and_names_the_repository(hub, root, found):
    assert found["local card"]["status"] == 0
    local, card = (root / "sums/README.md").read_text(), hub.file("org/local-card", "README.md").decode()
    folder = str(root / "sums")
    assert f'"{folder}"' in local and "75.00% of 8" in local
    assert card == local.replace(f'"{folder}"', '"org/local-card"')


def test_shards_replace_the_one_file_that_was_there(hub, found):
    assert found["sharded"]["status"] == 0
    files = hub.files("org/plain", "shards")
    assert "model.safetensors.index.json" in files and "model.safetensors" not in files


def test_publishing_comes_through_what_may_pass(hub, found):
    assert found["rough"]["status"] == 0 and found["rough"]["out"]
    assert hub.branches("org/rough") == {"main", "step-2", "step-4", "step-6"}
    assert hub.files("org/rough", "step-4") == PUBLISHED | {"trainer_state.json"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_message_and_nothing_is_uploaded(found, mistake):
    outcome = found[mistake]
    assert outcome["status"] == 2 and outcome["out"] == ""
    assert outcome["err"].startswith("hf-radial: error: ") and outcome["err"].count("\n") == 1
    for part in MISTAKES[mistake]:
        assert part in outcome["err"]
    assert found["asked nothing"]


def test_what_is_to_be_private_does_not_go_to_a_public_repository(hub, found):
    assert found["public"]["status"] == 2 and "org/plain exists and is public" in found["public"]["err"]


def test_a_token_that_may_not_write_is_one_clear_error(found):
    assert found["read-only"]["status"] == 2
    assert "write permission" in found["read-only"]["err"] and "sums" in found["read-only"]["err"]
