"""If the Hub fails while a model trains or is pushed, the model is kept and the user is told.

Real training and pushes over HTTP, to `hub_server.py` instead of the Hub, with injected faults.
"""

from __future__ import annotations

import json
import socket

import pytest
from hub_client import HERE, WITHOUT_US, HubClient, run_with, serving

STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")
CHECKPOINTS = ("checkpoint-2", "checkpoint-4", "checkpoint-6")
STEPS = 6
SCENARIOS = ("strategies", "branches", "healed", "down", "read_only", "slow", "at_the_end", "full_disk", "anywhere")


class Runs:
    """The folders of the worker's runs, and what it found."""

    def __init__(self, hub, root, names, **variables):
        self.root = root
        run_with(hub, root, str(HERE / "faults_worker.py"), str(root), *names, **variables)
        self.found = json.loads((root / "found.json").read_text())


@pytest.fixture(scope="module")
def runs(hub, tmp_path_factory):
    return Runs(hub, tmp_path_factory.mktemp("faults"), SCENARIOS)


def check_pushed(hub, repo_id, folder, names, at="", revision="main"):
    """These files are on the Hub, the same as on this machine."""
    assert {f"{at}{name}" for name in names} <= hub.files(repo_id, revision)
    for name in names:
        assert hub.file(repo_id, f"{at}{name}", revision) == (folder / name).read_bytes(), (repo_id, at, name)


def check_all_checkpoints(hub, runs, name):
    for checkpoint in CHECKPOINTS:
        files = ("model.safetensors", "config.json", "trainer_state.json", "optimizer.pt")
        check_pushed(hub, f"user/{name}", runs.root / name / checkpoint, files, at=f"{checkpoint}/")


# Without faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_ends_with_the_model_its_card_and_its_log_on_the_hub(hub, runs, strategy):
    files = ("model.safetensors", "config.json", "README.md", "run.json", "trainer_state.json")
    check_pushed(hub, f"user/{strategy}", runs.root / strategy, files)
    history = hub.history(f"user/{strategy}")
    assert history[0] == "End of training"
    assert (f"Training in progress, step {STEPS}" in history) == (strategy != "end")
    assert hub.is_private(f"user/{strategy}") == (strategy == "end")


def test_the_checkpoints_go_where_the_strategy_says(hub, runs):
    check_all_checkpoints(hub, runs, "all_checkpoints")
    last = ("model.safetensors", "trainer_state.json", "optimizer.pt", "scheduler.pt")
    check_pushed(hub, "user/checkpoint", runs.root / "checkpoint/checkpoint-6", last, at="last-checkpoint/")
    for strategy in ("end", "every_save"):
        assert not [file for file in hub.files(f"user/{strategy}") if "checkpoint" in file or "optimizer" in file]


def test_a_run_that_is_killed_leaves_our_card_with_the_model(hub, runs):
    for strategy in STRATEGIES[1:]:
        first = [title for title in hub.history(f"user/{strategy}") if title.startswith("Training in progress")][-1]
        revision = hub.commits(f"user/{strategy}")[first]
        card = hub.file(f"user/{strategy}", "README.md", revision).decode()
        assert "hf_radial" in card and f'from_pretrained("user/{strategy}")' in card


def test_a_process_without_hf_radial_loads_what_each_strategy_pushed(hub, runs, tmp_path):
    models = {f"user/{strategy}": str(runs.root / f"{strategy}.safetensors") for strategy in STRATEGIES}
    run_with(hub, tmp_path, "-c", WITHOUT_US, json.dumps(models))


def test_a_missing_branch_is_created(hub, runs):
    assert hub.branches("user/branches") == {"main", "experiment/1", "final"}
    assert hub.history("user/branches") == ["initial commit"]
    assert f"Training in progress, step {STEPS}" in hub.history("user/branches", "experiment%2F1")
    check_pushed(hub, "user/branches", runs.root / "branches", ("model.safetensors", "README.md"), revision="final")


# A Hub that fails while training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["healed", "healed-callback", "healed-zero"])
def test_a_failed_push_is_reported_and_made_again_when_training_ends(hub, runs, name):
    found = runs.found["healed"][name]
    assert found["steps"] == STEPS
    reports = [line for line in found["logged"] if "failed. Training continues" in line]
    assert f"pushing step 2 to user/{name} failed" in reports[0] and "not now" in reports[0]
    check_all_checkpoints(hub, runs, name)
    check_pushed(hub, f"user/{name}", runs.root / name / "checkpoint-6", ("model.safetensors", "config.json"))


def test_a_hub_that_never_answers_well_stops_nothing(hub, runs):
    found = runs.found["down"]
    assert found["steps"] == STEPS
    assert "training is complete, but pushing step 6 to user/down failed" in found["logged"][-1]
    assert "checkpoint-6" in found["logged"][-1] and "never" in found["logged"][-1]
    assert found["error"].startswith(f"pushing {runs.root / 'down'} to user/down failed")
    assert "Nothing is lost" in found["error"] and "never" in found["error"]
    assert found["files"] == [".gitattributes"]
    assert found["intact"] and found["resumes"]


def test_a_later_push_to_hub_brings_the_model_and_the_checkpoint(hub, runs):
    check_pushed(hub, "user/down", runs.root / "down", ("model.safetensors", "README.md"))
    checkpoint = ("model.safetensors", "trainer_state.json", "optimizer.pt")
    check_pushed(hub, "user/down", runs.root / "down/checkpoint-6", checkpoint, at="last-checkpoint/")


def test_a_token_that_may_not_write_is_said_at_the_first_save(hub, runs):
    found = runs.found["read_only"]
    assert found["steps"] == STEPS
    assert "pushing step 2 to user/read-only failed" in found["logged"][0] and "403" in found["logged"][0]
    assert "write permission" in found["error"]
    assert not [line for line in found["logged"] if "try 1" in line]  # that would not help
    assert hub.files("user/read-only") == {".gitattributes"}


def test_checkpoints_that_are_skipped_for_a_slow_hub_are_pushed_in_the_end(hub, runs):
    assert runs.found["slow"] == {"steps": STEPS, "logged": []}
    check_all_checkpoints(hub, runs, "slow")


def test_faults_anywhere_leave_all_checkpoints_on_the_hub_and_on_disk(hub, runs):
    reports = 0
    for name, found in runs.found["anywhere"].items():
        assert found["steps"] == STEPS and found["resumes"]
        check_all_checkpoints(hub, runs, name)
        check_pushed(hub, f"user/{name}", runs.root / name / "checkpoint-6", ("model.safetensors", "config.json"))
        reports += len(found["logged"])
    assert reports  # some were noticed


# A Hub that fails at the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["409", "412", "429", "500", "503", "before", "answer", "body", "slow"])
def test_the_last_push_comes_through_what_may_pass(runs, fault):
    assert runs.found["at_the_end"][fault] == {"error": None, "same": True}


# This machine ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_no_training_and_no_later_push(hub, runs):
    found = runs.found["full_disk"]
    assert found["steps"] == STEPS
    assert "pushing step 2 to user/full-disk failed. Training continues" in found["logged"][0]
    assert "File too large" in found["logged"][0]
    assert "free some space" in found["error"] and "Nothing is lost" not in found["error"]
    assert found["intact"] and found["resumes"]
    check_all_checkpoints(hub, runs, "full-disk")
    check_pushed(hub, "user/full-disk", runs.root / "full-disk", ("model.safetensors", "README.md"))


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_asking_to_push_is_an_error_before_training(tmp_path, offline):
    with socket.socket() as closed:  # bound, so that nobody else listens there, and not listening
        closed.bind(("127.0.0.1", 0))
        nowhere = HubClient(f"http://127.0.0.1:{closed.getsockname()[1]}")
        variables = {"HF_HUB_OFFLINE": "1"} if offline else {}
        found = Runs(nowhere, tmp_path, ["unreachable"], **variables).found["unreachable"]
    advice = "unset HF_HUB_OFFLINE" if offline else f"There is no connection to {nowhere.url}"
    assert "repository 'user/asked'" in found["construct"] and advice in found["construct"]
    # A run that did not ask for it is trained, saved, and goes on from its checkpoint.
    assert "Nothing is lost" in found["push"] and advice in found["push"]
    assert found["same"] and found["resumes"]
    assert "hf_radial" in (tmp_path / "not-asked/README.md").read_text()


def test_models_travel_through_xet(tmp_path):
    storage, home = tmp_path / "storage", tmp_path / "home"
    storage.mkdir(), home.mkdir()
    with serving("--xet", str(storage)) as hub:
        runs = Runs(hub, home, ["xet"], HF_HUB_DISABLE_XET="0")
        check_all_checkpoints(hub, runs, "xet")
        check_pushed(hub, "user/xet", runs.root / "xet", ("model.safetensors", "README.md"), revision="final")
        models = {"user/xet@final": str(runs.root / "xet.safetensors")}
        run_with(hub, home, "-c", WITHOUT_US, json.dumps(models), HF_HUB_DISABLE_XET="0")
        routes = {request["route"] for request in hub.requests()}
    assert "xet_token" in routes and "lfs_put" not in routes
