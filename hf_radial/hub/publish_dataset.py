"""Tasks on the Hub: Parquet files and a card, so that `load_dataset("org/name", "add_p97_f0.5_s0")` needs nothing of ours.

    write_dataset("modular", ["add_p97_f0.5_s0"], "out")             # a folder that load_dataset takes as well
    publish_dataset("modular", ["add_p97_f0.5_s0"], "org/name")      # the folder, as one commit

Each configuration has a folder of its name with `<split>-00000-of-00001.parquet` and `task.json`, which describes them. The
card is made from the `task.json` of all configurations, so a configuration can be added to a repository at any time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, DatasetCardData, HfApi
from yaml import YAMLError

from hf_radial.hub.repositories import check_repo_id, check_target, folder_at
from hf_radial.hub.retry import make_branch, make_repo, with_retries
from hf_radial.runs.record import describe_environment
from hf_radial.runs.shipped import card_template
from hf_radial.runs.text_files import read_object, read_text
from hf_radial.safe_files import locked, replacing, write_text
from hf_radial.tasks.checks import shown
from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.load import builder_class, check_cache_dir, load_task, quietly, task_builder, task_config
from hf_radial.tasks.show import describe_task, task_fields

logger = logging.getLogger(__name__)
TEMPLATE = "dataset_card.md"
FACTS = "task.json"
FACTS_KEYS = {"task": str, "splits": dict, "features": list, "license": str}
LOCK = ".hf_radial.lock"  # a file in the folder that is not published
TAG = "hf_radial"  # marks our cards; others are not overwritten
SHARD_BYTES = 500_000_000
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B")
HUB_LICENSES = ("cc0-1.0",)  # licences with a name on the Hub; any other is "other" there, with name and link
LICENSE_LINKS = {
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "psf-2.0": "https://docs.python.org/3/license.html",
}
LONGEST_FIRST_ROW = 200  # characters in the card


def write_dataset(
    task: str, configs: Sequence[str], folder: str | os.PathLike[str], repo_id: str | None = None, cache_dir: str | None = None
) -> Path:
    """Write configurations of a task as Parquet, with a card, into a folder. Configurations that it already holds stay.

    An existing file is checked and kept. A damaged file is replaced, with a warning. Processes that write into the same folder
    wait for each other.

    Args:
        task: a name out of `hf_radial.tasks.TASKS`.
        configs: names of configurations.
        folder: created if it does not exist. `load_dataset(folder, config)` reads it.
        repo_id: the dataset's name in the card. Default: the folder.
        cache_dir: the folder for intermediate Arrow files. Default: `datasets`' own cache.

    Returns:
        The folder.

    Raises:
        ValueError: the task or configuration does not exist (nothing is written then), or the folder's card is not ours.
        OSError: the folder or the cache cannot be written.
    """
    folder = folder_at(folder)
    check_configs(task, configs)
    check_cache_dir(cache_dir)
    if repo_id is not None:
        check_repo_id(repo_id)
    check_card(_card_in(folder), str(folder))  # before anything is written
    try:
        # Two processes that write into one folder must not lose each other's configurations in the card.
        with locked(folder / LOCK, f"writes a dataset into {folder}"):
            before = _card_in(folder)
            for config in configs:
                write_config(task, config, folder / config, cache_dir)
            facts = {file.parent.name: read_object(file, FACTS_KEYS) for file in folder.glob(f"*/{FACTS}")}
            write_text(folder / "README.md", dataset_card(facts, repo_id or str(folder), before))
    except OSError as error:
        if "cache_dir" in str(error):  # the error is about the cache, and says so
            raise
        raise type(error)(f"folder={str(folder)!r} cannot be written: {error}. Give another folder, or make room.") from error
    return folder


def _card_in(folder: Path) -> str | None:
    readme = folder / "README.md"
    return read_text(readme) if readme.is_file() else None


def publish_dataset(
    task: str,
    configs: Sequence[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
) -> str:
    """Publish configurations of a task as a dataset on the Hub, in one commit with Parquet files and a card.

    Failed requests are repeated where that can help (`hf_radial.hub.retry`). If somebody else commits in between, the new state
    is read and the commit is made on top of it. Publishing the same again changes nothing.

    Args:
        task: a name out of `hf_radial.tasks.TASKS`.
        configs: names of configurations. Other configurations in the repository stay.
        repo_id: "org/name"; created if it does not exist.
        private: hide the repository from others. Default: the organisation's setting.
        revision: the branch, created if it does not exist. Default: "main".
        folder: the folder in which the files are written first, and kept. Default: a temporary folder.
        token: the Hub's token. Default: that of the login.
        cache_dir: as for `write_dataset`.

    Returns:
        Address of the commit.

    Raises:
        ValueError: the task, the configuration or the form of `repo_id` is wrong (nothing is written or sent then), or the
            repository has a card that is not ours.
        HubError: the Hub cannot be reached, refuses the token or the commit, or fails for too long.
        OSError: the folder or the cache cannot be written.
    """
    check_configs(task, configs)
    check_target(repo_id, private, revision, token)
    check_cache_dir(cache_dir)
    if folder is not None:
        folder_at(folder)
    api, revision = HfApi(token=token, library_name="hf_radial"), revision or "main"
    what = f"publishing {', '.join(configs)} to the dataset {repo_id}"
    ask = partial(with_retries, what=what)
    # The small requests come first, so that a token without permission fails before the rows are made.
    create = partial(api.create_repo, repo_id, repo_type="dataset", private=private or None, exist_ok=True)
    repo_id = ask(partial(make_repo, create)).repo_id
    if private and not ask(partial(api.dataset_info, repo_id)).private:
        raise ValueError(f"private: {repo_id} exists and is public; make it private in its settings, or choose another name.")
    if revision != "main":
        ask(partial(make_branch, api, repo_id, revision, repo_type="dataset"))
    with tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder) as place:
        files = write_dataset(task, configs, place, repo_id, cache_dir)
        return ask(partial(_commit, api, files, configs, repo_id, revision, what), kept=folder)


def _commit(api: HfApi, folder: Path, configs: Sequence[str], repo_id: str, revision: str, what: str) -> str:
    """One commit on top of the branch's current state. A conflict raises an error, and the caller tries the whole again."""
    head = api.repo_info(repo_id, repo_type="dataset", revision=revision).sha
    there = api.list_repo_files(repo_id, repo_type="dataset", revision=head)

    def read(path: str) -> str:
        with tempfile.TemporaryDirectory() as place:  # not from the cache, where a file could be damaged
            file = api.hf_hub_download(repo_id, path, repo_type="dataset", revision=head, local_dir=place)
            return Path(file).read_text(encoding="utf-8")

    before = read("README.md") if "README.md" in there else None
    check_card(before, repo_id)
    facts = {
        path.split("/")[0]: json.loads(read(path)) for path in there if path.endswith(f"/{FACTS}") and path.count("/") == 1
    }
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for config in configs:
        facts[config] = json.loads((folder / config / FACTS).read_text(encoding="utf-8"))
        names = [FACTS, *(name for part in facts[config]["splits"].values() for name in part["files"])]
        ours = {f"{config}/{name}": folder / config / name for name in sorted(names)}  # and no other file of the folder
        operations += [CommitOperationAdd(path, file) for path, file in ours.items()]
        # From a version with more files.
        stale = [path for path in there if path.startswith(f"{config}/") and path not in ours]
        operations += [CommitOperationDelete(path) for path in stale]
    operations.append(CommitOperationAdd("README.md", dataset_card(facts, repo_id, before).encode()))
    message = what[0].upper() + what[1:]
    done = api.create_commit(
        repo_id, operations, commit_message=message, repo_type="dataset", revision=revision, parent_commit=head
    )
    return done.commit_url


def write_config(task: str, config: str, folder: Path, cache_dir: str | None = None) -> None:
    """Parquet files and `task.json` of one configuration."""
    facts = describe_task(task, config, cache_dir=cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    splits = load_task(task, config, cache_dir=cache_dir)
    for split, rows in splits.items():
        shards = -(-rows.data.nbytes // SHARD_BYTES) or 1
        names = [f"{split}-{i:05d}-of-{shards:05d}.parquet" for i in range(shards)]
        for i, name in enumerate(names):
            part = rows.shard(shards, i, contiguous=True) if shards > 1 else rows
            if not is_intact(folder / name, part):
                with quietly(), replacing(folder / name) as new:
                    part.to_parquet(str(new))
        for stale in set(folder.glob(f"{split}-*.parquet")) - {folder / name for name in names}:
            stale.unlink(missing_ok=True)
        about = facts["splits"][split]
        about["files"] = {name: (folder / name).stat().st_size for name in names}
        about["num_bytes"] = rows.data.nbytes
    facts["features"] = splits["train"].features._to_yaml_list()
    facts["license"] = task_builder(task, config, cache_dir=cache_dir).info.license
    facts["command"] = f"hf-radial publish dataset {task} --config {shlex.quote(config)} --repo ORG/NAME"
    facts["versions"] = describe_environment()["versions"]
    write_text(folder / FACTS, json.dumps(facts, indent=2, default=str) + "\n")


def is_intact(file: Path, rows: datasets.Dataset) -> bool:
    """Whether a Parquet file exists and holds exactly these rows. A warning says so if it is damaged."""
    if not file.exists():
        return False
    try:
        with tempfile.TemporaryDirectory() as place, quietly():
            kept = datasets.Dataset.from_parquet(str(file), cache_dir=place)
            same = kept.features == rows.features and checksum(kept) == checksum(rows)
    except Exception as error:  # any error: the file is written again
        logger.warning("The file %s is damaged (%s). It is written again.", file, error.__cause__ or error)
        return False
    if not same:
        logger.warning("The file %s holds other rows. It is written again.", file)
    return same


def dataset_card(facts: dict[str, dict[str, Any]], repo_id: str, before: str | None = None) -> str:
    """The card of a dataset repository, made from the `task.json` of its configurations alone.

    Args:
        facts: configuration -> the `task.json` of `write_config`.
        repo_id: the name for `load_dataset`.
        before: the card to replace. Other fields of its head stay.

    Returns:
        YAML head and Markdown.
    """
    data: Any = DatasetCard(before).data if before else DatasetCardData()
    ordered = dict(sorted(facts.items()))
    rows = sum(split["rows"] for about in ordered.values() for split in about["splits"].values())
    tasks = sorted({about["task"] for about in ordered.values()})
    licenses = sorted({about["license"] for about in ordered.values()})
    ids = list(dict.fromkeys(name if name in HUB_LICENSES else "other" for name in licenses))
    others = [name for name in licenses if name not in HUB_LICENSES]
    texts = any("completion" in first_row(about) for about in ordered.values())
    classes = any("labels" in first_row(about) for about in ordered.values())
    for name, value in {
        "pretty_name": f"Algorithmic tasks: {', '.join(tasks)}",
        "license": ids[0] if len(ids) == 1 else ids,
        "license_name": ", ".join(others) or None,
        "license_link": LICENSE_LINKS[others[0]] if len(others) == 1 else None,
        "language": ["en"] if "text" in tasks else None,
        "task_categories": [*["text-generation"] * (texts or not classes), *["other"] * classes],
        "size_categories": [SIZES[min(max(len(str(rows)) - 3, 0), len(SIZES) - 1)]],
        "tags": sorted({*(getattr(data, "tags", None) or []), TAG, "grokking", "algorithmic", "synthetic", "arxiv:2606.32000"}),
        "configs": [
            {
                "config_name": config,
                "data_files": [
                    {"split": split, "path": [f"{config}/{name}" for name in part["files"]]}
                    for split, part in about["splits"].items()
                ],
            }
            for config, about in ordered.items()
        ],
        "dataset_info": [
            {
                "config_name": config,
                "features": about["features"],
                "splits": [
                    {"name": split, "num_bytes": part["num_bytes"], "num_examples": part["rows"]}
                    for split, part in about["splits"].items()
                ],
                "download_size": sum(size for part in about["splits"].values() for size in part["files"].values()),
                "dataset_size": sum(part["num_bytes"] for part in about["splits"].values()),
            }
            for config, about in ordered.items()
        ],
    }.items():
        data[name] = value
    config = min(ordered, key=lambda name: (len(name), name))  # the plainest one represents all
    template = card_template(TEMPLATE)
    card = DatasetCard.from_template(
        data,
        template_str=template,
        repo_id=repo_id,
        title=repo_id.rstrip("/").split("/")[-1],
        config=config,
        first=shown_row(ordered[config]),
        tasks=[builder_class(task) for task in tasks],
        examples={task: next(about for about in ordered.values() if about["task"] == task) for task in tasks},
        notes={config: note for config, about in ordered.items() if (note := _note(about))},
        licenses={name: LICENSE_LINKS[name] for name in licenses},
        held=lambda name: [config for config, about in ordered.items() if about["license"] == name],
        configs=ordered,
        definitions={task: definition(task) for task in tasks},
        texts=texts,
        plain=any("text" in first_row(about) for about in ordered.values()),
        classes=classes,
        leak=lambda about: _leak(about["leakage"], about["splits"]),
        sizes=lambda about: ", ".join(f"{split} {part['rows']:,}" for split, part in about["splits"].items()),
        size=lambda about: f"{sum(size for part in about['splits'].values() for size in part['files'].values()):,}",
    )
    return str(card)


def first_row(about: dict[str, Any]) -> dict[str, Any]:
    """The first training row of a configuration."""
    return about["splits"]["train"]["first"]


def shown_row(about: dict[str, Any]) -> str:
    """The first training row as Python prints it, cut where it is long."""
    decimals = {feature["name"] for feature in about["features"] if str(feature.get("dtype")).startswith("decimal")}
    row = {name: Decimal(value) if name in decimals else value for name, value in first_row(about).items()}
    text = str(row)
    return text if len(text) <= LONGEST_FIRST_ROW else text[:LONGEST_FIRST_ROW] + " ..."


def _note(about: dict[str, Any]) -> str:
    """The part of a configuration's description that its task's description does not have."""
    return about["description"].removeprefix(builder_class(about["task"]).SUMMARY).strip()


def definition(task: str) -> str:
    """The fields of a task's configurations, as a Markdown list."""
    return "\n".join(f"- `{field}`: {meaning}" for field, (_, meaning) in task_fields(task).items())


def _leak(counts: dict[str, int] | None, splits: dict[str, Any]) -> str:
    """Two cells of a table."""
    if counts is None:
        return "not counted | –"
    held_out = sum(part["rows"] for split, part in splits.items() if split != "train")
    share = f" ({counts['commuted'] / held_out:.1%})" if counts.get("commuted") else ""
    reordered = f"{counts['commuted']:,}{share}" if "commuted" in counts else "–"
    return f"{counts['ordered']:,} | {reordered}"


def check_configs(task: str, configs: Sequence[str]) -> None:
    """Raise a ValueError for what is no list of texts, an empty list, or a configuration that the task does not have."""
    if not isinstance(configs, (list, tuple)) or not all(isinstance(config, str) for config in configs):
        raise ValueError(f"configs={shown(configs)} must be a list of texts, such as [{builder_class(task).SHELF[0]!r}].")
    if not configs:
        raise ValueError(f"configs: give at least one configuration, such as {builder_class(task).SHELF[0]!r}.")
    for config in configs:
        task_config(task, config)


def check_card(card: str | None, where: str) -> None:
    """Raise a ValueError if there is a card that hf_radial did not write."""
    try:
        tags = [] if card is None else getattr(DatasetCard(card, ignore_metadata_errors=True).data, "tags", None)
    except (YAMLError, ValueError, TypeError):  # ours can be read
        tags = None
    if card is not None and TAG not in (tags or []):
        raise ValueError(
            f"{where} has a card that hf_radial did not write and that would be lost: give another place, or delete README.md."
        )
