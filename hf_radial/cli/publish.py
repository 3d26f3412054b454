"""`hf-radial publish dataset|model ...`: upload to a Hub, with a card."""

from __future__ import annotations

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    publish = commands.add_parser(
        "publish", help="upload a task or a run to a Hub", description="Upload to the Hub that HF_ENDPOINT names."
    )
    kinds = publish.add_subparsers(dest="kind", required=True)
    _add_dataset(kinds)
    _add_model(kinds)


def _add_dataset(kinds: Any) -> None:
    dataset = kinds.add_parser(
        "dataset",
        help="configurations of a task, with a card",
        description="Upload configurations of a task as Parquet, with a card, in one commit. Others that are there stay.",
    )
    dataset.set_defaults(run=_dataset)
    dataset.add_argument("task", metavar="TASK", help="modular, groups, digits, ...; `hf-radial tasks` shows them")
    dataset.add_argument("--config", metavar="CONFIG", nargs="+", required=True, help="such as add_p97_f0.5_s0")
    dataset.add_argument("--repo", metavar="ORG/NAME", help="created if it does not exist; without it, nothing is uploaded")
    dataset.add_argument("--folder", metavar="DIR", help="keep the files there; load_dataset takes it as well")
    dataset.add_argument("--private", action="store_true", help="for others the repository does not exist")
    dataset.add_argument("--revision", metavar="BRANCH", help="created if it does not exist; main by default")
    dataset.add_argument("--token", help="instead of the one that is logged in (hf auth login) or HF_TOKEN")
    dataset.add_argument("--cache_dir", metavar="DIR", help="where rows are cached; datasets' own cache by default")


def _add_model(kinds: Any) -> None:
    model = kinds.add_parser(
        "model",
        help="a run's model with its card",
        description="Upload the model, tokenizer, card, record, log and curves of a run; no optimizer states, no pickles.",
    )
    model.set_defaults(run=_model)
    model.add_argument("folder", metavar="RUN_DIR", help="the output_dir of a run")
    model.add_argument("--repo", metavar="ORG/NAME", required=True, help="created if it does not exist")
    model.add_argument("--private", action="store_true", help="for others the repository does not exist")
    model.add_argument("--revision", metavar="BRANCH", help="created if it does not exist; main by default")
    model.add_argument(
        "--checkpoints", choices=["none", "last", "all"], default="none", help="checkpoint-N becomes the branch step-N"
    )
    model.add_argument("--token", help="instead of the one that is logged in (hf auth login) or HF_TOKEN")


def _dataset(options: argparse.Namespace) -> int:
    from hf_radial.hub.publish_dataset import publish_dataset, write_dataset

    if options.repo is None:
        if options.folder is None:
            raise ValueError("give --repo ORG/NAME to upload, or --folder DIR to write the files there, or both")
        for option in ("private", "revision", "token"):
            if getattr(options, option):
                raise ValueError(f"--{option} is for an upload: give --repo ORG/NAME, or leave it out")
        print(write_dataset(options.task, options.config, options.folder, cache_dir=options.cache_dir))
        return 0
    url = publish_dataset(
        options.task,
        options.config,
        options.repo,
        private=options.private,
        revision=options.revision,
        folder=options.folder,
        token=options.token,
        cache_dir=options.cache_dir,
    )
    print(url)
    return 0


def _model(options: argparse.Namespace) -> int:
    from hf_radial.hub.publish_model import publish_model

    url = publish_model(
        options.folder,
        options.repo,
        private=options.private,
        revision=options.revision,
        checkpoints=options.checkpoints,
        token=options.token,
    )
    print(url)
    return 0
