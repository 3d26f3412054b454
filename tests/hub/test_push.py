"""Models go to a Hub and come back: real training and pushes over HTTP, to `hub_server.py` instead of the Hub."""

from __future__ import annotations

import json

import pytest
from hub_client import HERE, WITHOUT_US, run_with
from huggingface_hub import ModelCard


@pytest.fixture(scope="module")
def runs(hub, tmp_path_factory):
    """The folder in which `push_worker.py` has trained `tiny`, pushed, and `broken`, whose push was refused."""
    folder = tmp_path_factory.mktemp("pushed")
    run_with(hub, folder, str(HERE / "push_worker.py"), str(folder))
    return folder


def test_a_process_without_hf_radial_loads_the_weights_that_were_trained(hub, runs, tmp_path):
    models = {"user/tiny": runs / "tiny.safetensors", str(runs / "broken"): runs / "broken.safetensors"}
    run_with(hub, tmp_path, "-c", WITHOUT_US, json.dumps({name: str(weights) for name, weights in models.items()}))
    assert any(request["route"] == "lfs_get" for request in hub.requests())


def test_the_final_push_has_the_saved_model_and_no_checkpoints(hub, runs):
    files = hub.files("user/tiny")
    assert {"model.safetensors", "config.json", "README.md", "run.json"} <= files
    assert {path.name for path in runs.glob("tiny/checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert not [path for path in files if "checkpoint" in path or "optimizer" in path or "scheduler" in path]
    assert hub.read("/user/tiny/resolve/main/model.safetensors") == (runs / "tiny/model.safetensors").read_bytes()


def test_the_model_is_pushed_while_it_trains(hub, runs):
    commits = hub.commits("user/tiny")
    assert next(iter(commits)) == "End of training"
    revision = commits["Training in progress, step 2"]
    assert {"model.safetensors", "config.json"} <= hub.files("user/tiny", revision)
    pushed = hub.read(f"/user/tiny/resolve/{revision}/model.safetensors")
    assert pushed == (runs / "tiny/checkpoint-2/model.safetensors").read_bytes()


def test_the_card_on_the_hub_is_ours(hub, runs):
    content = hub.read("/user/tiny/resolve/main/README.md").decode()
    assert content == (runs / "tiny/README.md").read_text(encoding="utf-8")
    check_card(content, "tiny", "user/tiny")


def test_a_failed_push_raises_and_leaves_model_and_card_on_disk(hub, runs):
    error = json.loads((runs / "error.json").read_text())
    assert error is not None, "push_to_hub() did not raise"
    for cause in ("500", "/api/models/user/broken/commit/main", "disk is full"):
        assert cause in error
    assert hub.files("user/broken") == {".gitattributes"}
    # Its weights are compared by the test that loads both models.
    check_card((runs / "broken/README.md").read_text(encoding="utf-8"), "broken", "user/broken")


def check_card(content: str, title: str, model_id: str) -> None:
    card = ModelCard(content)
    assert card.data.library_name == "transformers" and "hf_radial" in card.data.tags
    assert f"# {title}\n" in card.text
    assert f'from_pretrained("{model_id}")' in card.text
    table = card.text.split("| site | width d | target R |")[1]
    for layer in range(2):
        for site in ("attn", "mlp"):
            assert f"| `transformer.h.{layer}.{site}.c_proj` | 32 | 5.66 |" in table


def test_the_recipe_pushes_every_arm_with_its_tested_card_and_curves(hub, tmp_path):
    options = (
        "--digits 2 --train_size 64 --validation_size 20 --test_size 50 --layers 1 --width 32 --max_steps 4 --eval_steps 2"
    )
    options += " --save_steps 2 --logging_steps 2 --disable_tqdm true --push_to_hub true --hub_model_id user/sums"
    recipe = HERE.parents[1] / "recipes" / "addition.py"
    run_with(hub, tmp_path, str(recipe), *options.split(), "--output_dir", str(tmp_path / "out"))
    for arm in ("none", "penalty"):
        assert {"README.md", "curves.png", "model.safetensors", "trainer_state.json"} <= hub.files(f"user/sums-{arm}")
        card = hub.read(f"/user/sums-{arm}/resolve/main/README.md").decode()
        assert card == (tmp_path / "out" / arm / "README.md").read_text(encoding="utf-8")
        assert "of 50 held-out problems" in card and f'from_pretrained("user/sums-{arm}")' in card
