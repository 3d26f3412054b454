"""Uploads a finished run's folder: model, tokenizer, card, record, log and curves, and its checkpoints as branches.

Files that only training needs are not uploaded: optimizer, scheduler and random states, and every other pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from safetensors import SafetensorError, safe_open

from hf_radial.hub.model_card import CURVES, make_card, rename_model
from hf_radial.hub.repositories import check_target, folder_at
from hf_radial.hub.retry import make_branch, make_repo, with_retries
from hf_radial.runs.record import RUN_FILE, STATE_FILE
from hf_radial.runs.text_files import read_object, read_text

# What a card is made from.
RECORD_KEYS = {"facts": dict, "radial": dict, "model": dict}
STATE_KEYS = {"log_history": list, "global_step": int}
WEIGHTS, ADAPTER, INDEX = "model.safetensors", "adapter_model.safetensors", "model.safetensors.index.json"
# Weights and configurations, vocabularies, chat templates, figures, measurements. None of these can run code when it is loaded.
SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".png", ".svg", ".parquet")
TRAINING = "intervention_"  # what interventions remember from step to step, as large as the model or larger
TRAINERS_CARD = "generated_from_trainer"  # a tag of the cards that `Trainer` writes
CHECKPOINTS = ("none", "last", "all")


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    checkpoints: str = "none",
    token: str | None = None,
) -> str:
    """Upload the model in a run's folder in one commit. Files that the Hub already has are not uploaded again.

    Args:
        folder: a trainer's output directory.
        repo_id: `ORG/NAME`; created if it does not exist.
        private: hide the repository from others.
        revision: the branch, created if it does not exist. Default: `main`.
        checkpoints: `"none"`, `"last"` or `"all"`: `checkpoint-N` becomes the branch `step-N`.
        token: the Hub's token. Default: that of the login.

    Returns:
        The address of the model on the Hub.

    Raises:
        ValueError: an argument is wrong, or the folder does not hold a complete model. Nothing is uploaded then.
        HubError: the Hub cannot be reached or refuses.
    """
    folder = folder_at(folder)
    check_target(repo_id, private, revision, token)
    if checkpoints not in CHECKPOINTS:
        raise ValueError(f"checkpoints: {checkpoints!r} is none of {', '.join(CHECKPOINTS)}")
    check_model(folder)
    steps = _checkpoints(folder, checkpoints)
    for checkpoint in steps.values():
        check_model(checkpoint)
    card = _card_of_folder(folder, repo_id)
    cards = {step: _card_of_checkpoint(folder, checkpoint, repo_id, step) for step, checkpoint in steps.items()}

    api = HfApi(token=token, library_name="hf_radial")
    ask = partial(with_retries, kept=folder)
    what = f"publishing {folder} as {repo_id}"
    create = partial(api.create_repo, repo_id, private=private or None, exist_ok=True)
    url = ask(partial(make_repo, create), what)
    if private and not ask(partial(api.model_info, repo_id), what).private:
        raise ValueError(f"private: {repo_id} exists and is public; make it private in its settings, or choose another name")
    if revision not in (None, "main"):
        ask(partial(make_branch, api, repo_id, str(revision)), what)
    ask(partial(_commit, api, folder, card, repo_id, revision or "main", f"Publish {folder.resolve().name}"), what)
    for step, checkpoint in steps.items():
        branch, what = f"step-{step}", f"publishing {checkpoint} as {repo_id}, branch step-{step},"
        ask(partial(make_branch, api, repo_id, branch), what)
        ask(partial(_commit, api, checkpoint, cards[step], repo_id, branch, f"Publish step {step}"), what)
    return str(url)


def check_model(folder: Path) -> None:
    """Raise a `ValueError` unless the folder holds a configuration and complete weights."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the output_dir of a run")
    if (folder / INDEX).is_file():
        shards: dict[str, set[str]] = {}
        for tensor, file in read_object(folder / INDEX, {"weight_map": dict})["weight_map"].items():
            shards.setdefault(str(file), set()).add(tensor)
        if not shards:
            raise ValueError(f"{folder / INDEX} names no tensors; save the model again with trainer.save_model()")
        for file, expected in shards.items():
            if missing := expected - _tensors(folder / file):
                raise ValueError(f"{folder / file} lacks {len(missing)} tensors that {INDEX} names, such as {min(missing)!r}")
    else:
        there = [name for name in (WEIGHTS, ADAPTER) if (folder / name).is_file()]
        if not there:
            raise ValueError(f"{folder} has no {WEIGHTS}; save the model there with trainer.save_model()")
        _tensors(folder / there[0])
    configs = [folder / name for name in ("config.json", "adapter_config.json") if (folder / name).is_file()]
    for config in configs:
        read_object(config)
    if not configs:
        raise ValueError(
            f"{folder} has no config.json, without which nobody can load the model; trainer.save_model() writes it"
        )


def _tensors(file: Path) -> set[str]:
    """Names of a file's tensors. safetensors refuses a file that was cut off."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            return set(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{file} is missing or damaged, perhaps cut off when a disk was full ({error}); save the model again"
        ) from error


def _checkpoints(folder: Path, which: str) -> dict[int, Path]:
    """Folders of checkpoints by optimizer step, in order."""
    if which == "none":
        return {}
    found = _by_step(folder)
    if not found:
        raise ValueError(f"checkpoints={which!r}: {folder} has no checkpoint-N folders; train with save_strategy='steps'")
    return dict(list(found.items())[-1:]) if which == "last" else found


def _by_step(folder: Path) -> dict[int, Path]:
    names = [(path.name.removeprefix("checkpoint-"), path) for path in folder.glob("checkpoint-*")]
    return dict(sorted((int(step), path) for step, path in names if step.isdigit()))


def _card_of_folder(folder: Path, repo_id: str) -> str:
    """The folder's own card, which may hold more results than the record; or a new one if there is none, or `Trainer`'s."""
    record, written = _record(folder), folder / "README.md"
    card = read_text(written) if written.is_file() else TRAINERS_CARD
    if TRAINERS_CARD in card:
        return _card(record, _state(folder), folder, repo_id, folder.resolve().name)
    card = rename_model(card, record, repo_id)
    if "from_pretrained(" in card and repo_id not in card:
        raise ValueError(
            f"{written} shows how to load another model than {repo_id}; correct it, or delete it to have it written again"
        )
    return card


def _card_of_checkpoint(folder: Path, checkpoint: Path, repo_id: str, step: int) -> str:
    record = _record(folder)
    facts = {name: value for name, value in record["facts"].items() if name != "results"}  # which belong to the end of the run
    facts["title"] = f"{facts.get('title', folder.resolve().name)}, step {step}"
    card = _card({**record, "facts": facts}, _state(checkpoint), checkpoint, repo_id, facts["title"])
    return card.replace(f'from_pretrained("{repo_id}"', f'from_pretrained("{repo_id}", revision="step-{step}"')


def _card(record: dict[str, Any], state: dict[str, Any], folder: Path, repo_id: str, title: str) -> str:
    curves = (folder / CURVES).is_file()
    card = make_card(record, state["log_history"], repo_id, steps=state["global_step"], title=title, curves=curves)
    return str(card)


def _record(folder: Path) -> dict[str, Any]:
    return _read(folder / RUN_FILE, "hf_radial's trainers write it when training begins", RECORD_KEYS)


def _state(folder: Path) -> dict[str, Any]:
    if not (folder / STATE_FILE).is_file() and (found := _by_step(folder)):
        folder = found[max(found)]  # a run that was not pushed and did not save its state
    return _read(folder / STATE_FILE, "trainer.save_state() writes it", STATE_KEYS)


def _read(file: Path, advice: str, keys: Mapping[str, type]) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} is missing, so no model card can be made; {advice}")
    return read_object(file, keys)


def published(folder: Path) -> list[Path]:
    """The files of a folder that go to the Hub."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in SUFFIXES and path.name[0] not in "._" and not path.name.startswith(TRAINING)
    ]


def _commit(api: HfApi, folder: Path, card: str, repo_id: str, branch: str, title: str) -> None:
    files = published(folder)
    operations: list[Any] = [CommitOperationAdd(path.name, path) for path in files]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    # Old weights in files of other names would be loaded instead of the new ones.
    old = {name for name in api.list_repo_files(repo_id, revision=branch) if "/" not in name and ".safetensors" in name}
    operations += [CommitOperationDelete(name) for name in sorted(old - {path.name for path in files})]
    api.create_commit(repo_id, operations, commit_message=title, revision=branch)
