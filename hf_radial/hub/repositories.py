"""Checks of what the functions that publish take: the repository on a Hub, its branch, and the folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_radial.tasks.checks import flag, shown

# What git takes as no branch: https://git-scm.com/docs/git-check-ref-format
NO_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/.]|/\.|[/.]$|\.lock(/|$)|^@?$")


def check_target(repo_id: Any, private: Any, revision: Any, token: Any) -> None:
    """Raise a ValueError that names the argument of a publishing function which the Hub would refuse."""
    check_repo_id(repo_id)
    flag("private", private)
    if revision is not None and (not isinstance(revision, str) or NO_BRANCH.search(revision)):
        raise ValueError(f"revision={shown(revision)} is no name of a branch, such as 'main' or 'v2'; None takes 'main'.")
    if token is not None and (not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token)):
        raise ValueError(
            "token must be a text without spaces and line breaks, such as 'hf_...', or None for that of the login."
        )


def check_repo_id(repo_id: Any) -> None:
    """Raise a ValueError unless `repo_id` is of the form "org/name"."""
    if not isinstance(repo_id, str):
        raise ValueError(f"repo_id={shown(repo_id)} must be a text of the form 'org/name'.")
    if "/" not in repo_id:
        raise ValueError(f"repo_id={repo_id!r} has no owner; name it ORG/NAME.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id={repo_id!r} is not a name that the Hub takes, such as 'org/name': {error}") from error


def folder_at(folder: Any) -> Path:
    """The folder as a path; a ValueError if it is none."""
    if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
        raise ValueError(f"folder={shown(folder)} must be the path of a folder.")
    return Path(folder)
