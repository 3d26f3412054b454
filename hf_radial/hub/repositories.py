"""Names of repositories on a Hub."""

from __future__ import annotations

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def check_repo_id(repo_id: str) -> None:
    """Raise a ValueError unless `repo_id` is of the form "org/name"."""
    if "/" not in repo_id:
        raise ValueError(f"repo_id={repo_id!r} has no owner; name it ORG/NAME.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id={repo_id!r} is not a name that the Hub takes, such as 'org/name': {error}") from error
