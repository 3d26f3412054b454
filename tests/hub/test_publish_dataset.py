"""Tasks go to a Hub over real HTTP and are loaded from it by processes that do not have this package."""

from __future__ import annotations

import json
import platform
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_client import HERE, run_with

from hf_radial.cli.main import main as cli
from hf_radial.hub import publish_dataset
from hf_radial.hub.publish_dataset import definition, write_dataset
from hf_radial.tasks.load import TASKS, load_task, task_config

COMMIT = {"method": "POST", "path": "/commit/"}
CLASSES, TEXTS, TOGETHER = "add_p23_f0.5_s0", "div_p23_f0.4_v0.1_s3_lm", "add_p23_f0.5_s0_together"
WITHOUT_US = """
import json, sys
sys.modules["hf_radial"] = None  # importing it is an error
from datasets import get_dataset_config_names, load_dataset

repo_id, options, expected = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
assert sorted(get_dataset_config_names(repo_id, **options)) == sorted(expected), get_dataset_config_names(repo_id, **options)
for config, splits in expected.items():
    for streaming in (False, True):
        data = load_dataset(repo_id, config, streaming=streaming, **options)
        assert list(data) == list(splits), (config, list(data))
        for split, rows in splits.items():
            assert list(data[split]) == rows, (config, split, streaming)
"""


def publish(hub, home: Path, *calls: dict[str, Any], **variables: str) -> list[dict[str, str]]:
    output = run_with(hub, home, str(HERE / "dataset_worker.py"), json.dumps(calls), **variables)
    return json.loads(output.splitlines()[-1])


def rows(config: str, cache: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: list(rows) for split, rows in load_task("modular", config, cache_dir=str(cache)).items()}


def check_loads(
    hub, home: Path, repo_id: str, configs: list[str], options: dict[str, Any] | None = None, **variables: str
) -> None:
    """A process without our package finds these configurations and no others, with the builder's rows."""
    home.mkdir(exist_ok=True)
    expected = {config: rows(config, home / "ours") for config in configs}
    run_with(hub, home, "-c", WITHOUT_US, repo_id, json.dumps(options or {}), json.dumps(expected), **variables)


def test_what_is_published_loads_without_our_package_and_grows(hub, tmp_path):
    first, second, again = publish(
        hub,
        tmp_path,
        {"configs": [CLASSES, TEXTS], "repo_id": "org/tables", "folder": str(tmp_path / "kept")},
        {"configs": [TOGETHER], "repo_id": "org/tables"},
        {"configs": [TOGETHER], "repo_id": "org/tables"},
    )
    check_loads(hub, tmp_path / "reader", "org/tables", [CLASSES, TEXTS, TOGETHER])
    # The folder that was kept is a dataset as well, without any Hub.
    check_loads(hub, tmp_path / "offline", str(tmp_path / "kept"), [CLASSES, TEXTS], HF_HUB_OFFLINE="1")
    assert first["url"] != second["url"] == again["url"], "publishing the same again must change nothing"
    assert len(hub.history("org/tables", kind="dataset")) == 3  # with the one that made the repository

    card = hub.file("org/tables", "README.md", kind="dataset").decode()
    head = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in head["configs"]] == sorted([CLASSES, TEXTS, TOGETHER])
    assert head["license"] == "cc0-1.0" and "hf_radial" in head["tags"] and head["size_categories"] == ["1K<n<10K"]
    files = hub.files("org/tables", kind="dataset")
    for info in head["dataset_info"]:
        config = info["config_name"]
        about = json.loads(hub.file("org/tables", f"{config}/task.json", kind="dataset"))
        sizes = {split: len(part) for split, part in rows(config, tmp_path / "ours").items()}
        assert {split["name"]: split["num_examples"] for split in info["splits"]} == sizes
        parquet = [path for path in files if path.startswith(f"{config}/") and path.endswith(".parquet")]
        assert info["download_size"] == sum(len(hub.file("org/tables", path, kind="dataset")) for path in parquet)
        for part in about["splits"].values():
            assert part["checksum"] in card
        assert (
            about["command"].replace("ORG/NAME", "org/tables")
            == f"hf-radial publish dataset modular --config {config} --repo org/tables"
        )
        assert about["command"] in card and f"| `{config}` |" in card
    assert f'load_dataset("org/tables", "{CLASSES}")' in card
    train, test = ({tuple(row["input_ids"]) for row in part} for part in rows(CLASSES, tmp_path / "ours").values())
    mirrored = sum(a != b and (b, a) in train for a, b in test)
    assert f"| 0 | {mirrored} ({mirrored / len(test):.1%}) |" in card.split(f"| `{CLASSES}` |")[1].splitlines()[0]


def test_each_fault_that_can_pass_ends_in_success(hub, tmp_path):
    read = {"method": "GET", "path": "/resolve/.*README"}
    faults: dict[str, dict[str, Any]] = {
        **{f"s{status}": {**COMMIT, "status": status, "times": 2} for status in (409, 412, 500, 502, 503)},
        "limited": {**COMMIT, "status": 429, "headers": {"Retry-After": "1"}},
        "dropped": {**COMMIT, "drop": "before"},
        "answerless": {**COMMIT, "drop": "answer"},
        "cut": {**COMMIT, "drop": "body"},
        "slow": {"path": "/api/datasets/", "delay": 0.3, "times": 5},
        "create": {"method": "POST", "path": "/repos/create", "drop": "answer"},
        "conflict": {"method": "POST", "path": "/repos/create", "status": 409},
        "reading": {**read, "drop": "body"},
        "reading500": {**read, "status": 500, "times": 3},
    }
    # Each repository holds something already, so that it is read first.
    names = [f"org/{name}" for name in faults]
    before = [{"configs": [TEXTS], "repo_id": name} for name in names if "reading" in name]
    calls = [{"configs": [CLASSES], "repo_id": f"org/{name}", "faults": [fault]} for name, fault in faults.items()]
    results = publish(hub, tmp_path, *before, *calls)
    assert all("url" in result for result in results), [result for result in results if "error" in result]
    check = tmp_path / "reader"
    for name in names:
        expected = {"README.md", ".gitattributes", *(f"{CLASSES}/{file}" for file in FILES)}
        if "reading" in name:
            expected |= {f"{TEXTS}/{file}" for file in [*FILES, "validation-00000-of-00001.parquet"]}
        assert hub.files(name, kind="dataset") == expected, name
        assert CLASSES in hub.file(name, "README.md", kind="dataset").decode()
    check_loads(hub, check, "org/answerless", [CLASSES])


FILES = ("task.json", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet")


def test_faults_at_random_points_end_in_success(hub, tmp_path):
    kinds: list[dict[str, Any]] = [
        {"status": 500},
        {"status": 503},
        {"status": 412},
        {"drop": "before"},
        {"drop": "answer"},
        {"drop": "body"},
    ]
    calls = [
        {
            "configs": [CLASSES] if seed % 2 else [TEXTS, TOGETHER],
            "repo_id": "org/random",
            "faults": [
                {
                    **kinds[seed % len(kinds)],
                    "path": "org/random|/repos/create|/-lfs/",
                    "probability": 0.25,
                    "times": 3,
                    "seed": seed,
                }
            ],
        }
        for seed in range(8)
    ]
    results = publish(hub, tmp_path, *calls)
    assert all("url" in result for result in results), [result for result in results if "error" in result]
    check_loads(hub, tmp_path / "reader", "org/random", [CLASSES, TEXTS, TOGETHER])


def test_processes_that_publish_at_once_lose_nothing(hub, tmp_path):
    def one(config: str) -> None:
        home = tmp_path / config
        home.mkdir()
        slow = {**COMMIT, "path": "org/crowded/commit", "delay": 0.5, "times": 3}
        (result,) = publish(hub, home, {"configs": [config], "repo_id": "org/crowded", "faults": [slow]})
        assert "url" in result, result

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, [CLASSES, TEXTS, TOGETHER]))
    check_loads(hub, tmp_path / "reader", "org/crowded", [CLASSES, TEXTS, TOGETHER])
    card = hub.file("org/crowded", "README.md", kind="dataset").decode()
    assert all(f"| `{config}` |" in card for config in (CLASSES, TEXTS, TOGETHER))


def test_what_cannot_pass_is_one_clear_error_and_nothing_is_lost(hub, tmp_path):
    kept, full = str(tmp_path / "kept"), str(tmp_path / "full")
    always = [{**COMMIT, "status": 500, "times": 1000, "message": "the database is away"}]
    calls: list[tuple[dict[str, Any], str, str]] = [
        ({"token": "readonly"}, "HubError", "may not write there"),
        ({"token": "stolen"}, "HubError", "does not know the token"),
        ({"repo_id": "stranger/x"}, "HubError", "may not write there"),
        ({"faults": always, "folder": kept}, "HubError", f"all of it is in {kept}. .*the database is away"),
        ({"largest_file": 4000, "configs": ["mul_p97_f0.5_s0"], "cache_dir": full}, "OSError", f"cache_dir='{full}' cannot be"),
        ({"largest_file": 900, "folder": full}, "OSError", f"folder='{full}' cannot be written.*make room"),
        ({"repo_id": "org/no name!"}, "ValueError", "repo_id='org/no name!' is not a name that the Hub takes"),
        ({"configs": []}, "ValueError", "configs: give at least one configuration, such as"),
        ({"configs": ["add_p97"]}, "ValueError", "'add_p97' is not a configuration of this task"),
        ({"task": "moduler"}, "ValueError", "did you mean 'modular'"),
    ]
    results = publish(hub, tmp_path, *({"configs": [CLASSES], "repo_id": "org/never", **call} for call, _, _ in calls))
    for (call, error, message), result in zip(calls, results, strict=True):
        assert result.get("error") == error and re.search(message, result["message"]), (call, result)
    # What was kept can be published as it is.
    check_loads(hub, tmp_path / "reader", kept, [CLASSES], HF_HUB_OFFLINE="1")
    (result,) = publish(hub, tmp_path, {"configs": [CLASSES], "repo_id": "org/never", "folder": kept})
    assert "url" in result


@pytest.mark.parametrize(
    ("variables", "message"),
    [({"HF_ENDPOINT": "http://127.0.0.1:9"}, "There is no connection"), ({"HF_HUB_OFFLINE": "1"}, "Offline mode is on")],
    ids=["no network", "offline"],
)
def test_without_a_hub_publishing_is_one_clear_error(hub, tmp_path, variables, message):
    (result,) = publish(hub, tmp_path, {"configs": [CLASSES], "repo_id": "org/x"}, **variables)
    assert result["error"] == "HubError" and message in result["message"], result


def test_a_private_dataset_on_a_branch_needs_the_token(hub, tmp_path):
    call = {"configs": [CLASSES], "repo_id": "org/secret", "private": True, "revision": "draft"}
    (result,) = publish(hub, tmp_path, call)
    assert "url" in result and hub.is_private("org/secret", kind="dataset")
    assert hub.branches("org/secret", kind="dataset") == {"main", "draft"}
    assert hub.files("org/secret", kind="dataset") == {".gitattributes"}
    check_loads(hub, tmp_path / "reader", "org/secret", [CLASSES], {"revision": "draft"})
    code = "from datasets import load_dataset; load_dataset('org/secret', revision='draft')"
    (tmp_path / "stranger").mkdir()
    output = run_with(hub, tmp_path / "stranger", "-c", code, status=1, HF_TOKEN="")
    assert "DatasetNotFoundError" in output


def test_a_card_that_somebody_else_wrote_is_not_overwritten(hub, tmp_path):
    code = (
        "from huggingface_hub import HfApi; api = HfApi(); api.create_repo('org/theirs', repo_type='dataset')\n"
        "api.upload_file(path_or_fileobj=b'# Ours', path_in_repo='README.md', repo_id='org/theirs', repo_type='dataset')"
    )
    run_with(hub, tmp_path, "-c", code)
    (result,) = publish(hub, tmp_path, {"configs": [CLASSES], "repo_id": "org/theirs"})
    assert result["error"] == "ValueError" and "a card that hf_radial did not write" in result["message"]
    assert hub.file("org/theirs", "README.md", kind="dataset") == b"# Ours"


def test_a_damaged_file_in_the_folder_is_rewritten_with_a_warning(tmp_path, caplog):
    folder = write_dataset("modular", [CLASSES], tmp_path / "out", cache_dir=str(tmp_path / "cache"))
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    file = folder / CLASSES / "train-00000-of-00001.parquet"
    for damaged in (
        b"",
        files[file][:1000],
        files[file][:-5] + b"xxxxx",
        files[folder / CLASSES / "test-00000-of-00001.parquet"],
    ):
        file.write_bytes(damaged)
        caplog.clear()
        write_dataset("modular", [CLASSES], folder, cache_dir=str(tmp_path / "cache"))
        assert "written again" in caplog.text
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == files


def test_a_card_says_of_each_configuration_its_own_licence_and_secret(tmp_path):
    python = platform.python_version()
    names = {"generated_c10000_f0.5_v0.2_s0": "cc0-1.0", f"pydoc_py{python}_f0.9_v0.05_s0": "psf-2.0"}
    folder = write_dataset("text", list(names), tmp_path / "texts", cache_dir=str(tmp_path / "cache"))
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    # The Hub has no name for Python's licence.
    assert (
        head["license"] == ["cc0-1.0", "other"] and head["license_name"] == "psf-2.0" and "python.org" in head["license_link"]
    )
    for config, name in names.items():
        (line,) = re.findall(rf"^- \[{name}\].*", card, re.MULTILINE)
        assert [f"`{other}`" in line for other in names] == [other == config for other in names]

    secrets = {f"parity_bits{bits}_k3_n20-0-10_s0": bits for bits in (20, 200)}
    folder = write_dataset("sparse_parity", list(secrets), tmp_path / "parity", cache_dir=str(tmp_path / "cache"))
    card = (folder / "README.md").read_text()
    for config in secrets:
        relevant = list(task_config("sparse_parity", config).relevant)
        assert f"- `{config}`: The label is the parity of the bits at positions {relevant}" in card
    assert card.count("The label is the parity") == len(secrets)
    assert max(map(len, card.split("```python")[1].split("```")[0].splitlines())) < 250  # of 200 bits, not all are shown


def test_a_field_that_a_task_defines_itself_is_not_defined_a_second_time():
    lines = {line.split("`")[1]: line for line in definition("polynomial").splitlines()}
    assert lines["commutative"].endswith('"split" only. The operands in another order are another polynomial.')


def test_only_what_belongs_to_a_dataset_is_uploaded(hub, tmp_path):
    kept = tmp_path / "kept"
    (kept / CLASSES / "notes").mkdir(parents=True)
    (kept / CLASSES / "train-00000-of-00002.parquet.incomplete").write_bytes(b"of a process that was killed")
    (result,) = publish(hub, tmp_path, {"configs": [CLASSES], "repo_id": "org/strays", "folder": str(kept)})
    assert "url" in result, result
    assert hub.files("org/strays", kind="dataset") == {"README.md", ".gitattributes", *(f"{CLASSES}/{file}" for file in FILES)}


def test_two_processes_that_write_into_one_folder_lose_nothing_of_each_other(tmp_path, monkeypatch):
    folder, others = tmp_path / "out", []

    def write(config: str) -> None:
        write_dataset("modular", [config], folder, cache_dir=str(tmp_path / "cache"))

    def card_after_the_other(*arguments, card=publish_dataset.dataset_card):
        if not others:  # the first one knows its configurations; now another one begins
            others.append(threading.Thread(target=write, args=(TEXTS,)))
            others[0].start()
            others[0].join(3)
        return card(*arguments)

    monkeypatch.setattr(publish_dataset, "dataset_card", card_after_the_other)
    write(CLASSES)
    others[0].join(60)
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert [part["config_name"] for part in head["configs"]] == [CLASSES, TEXTS]
    assert not [file for file in folder.rglob(".*") if file.name != publish_dataset.LOCK]


def test_options_of_an_upload_are_refused_where_nothing_is_uploaded(tmp_path, capsys):
    words = ["publish", "dataset", "modular", "--config", CLASSES, "--folder", str(tmp_path / "out")]
    for option in (["--private"], ["--revision", "draft"], ["--token", "dummy"]):
        assert cli([*words, *option]) == 2
        assert f"{option[0]} is for an upload: give --repo ORG/NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_field_of_every_task_is_defined_in_its_card():
    from hf_radial.tasks.load import builder_class

    for task in TASKS:
        config = builder_class(task).BUILDER_CONFIG_CLASS
        defined = {line.split("`")[1] for line in definition(task).splitlines()}
        assert defined == set(config(name=builder_class(task).SHELF[0]).options()), task


def test_a_training_process_uses_a_published_dataset(hub, tmp_path):
    publish(hub, tmp_path, {"configs": [CLASSES], "repo_id": "org/train"})
    code = """
from datasets import load_dataset
from transformers import TrainingArguments
from hf_radial import RadialTrainer
from hf_radial.models import ModularMLPConfig, ModularMLPForSequenceClassification
data = load_dataset("org/train", "add_p23_f0.5_s0")
model = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=23, embedding_size=8, hidden_size=16))
args = TrainingArguments("out", max_steps=2, report_to="none", use_cpu=True)
RadialTrainer(model=model, args=args, radial_lambda=0.05, train_dataset=data["train"], eval_dataset=data["test"]).train()
"""
    run_with(hub, tmp_path, "-c", code)
