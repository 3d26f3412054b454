"""Repeats requests to the Hub while that can help, and raises one clear error when it cannot.

huggingface_hub repeats reads and uploads of files for about half a minute. It repeats commits only for files that go through
Xet, and never conflicts (409, 412), new repositories or new branches. Here a whole operation is repeated. That is safe for
uploads: files that the Hub already has are neither sent nor committed twice.
"""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)
T = TypeVar("T")

FIRST_WAIT = 1.0  # seconds before the second try; each further wait is twice as long
LONGEST_WAIT = 60.0
PATIENCE = 300.0  # seconds of waiting in total, without the tries themselves
CONNECTION_TRIES = 3  # the same for a Hub that cannot be reached at all
MAY_PASS = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ProxyError")  # errors of httpx, which is httpx2 from huggingface_hub 2 on
# A full disk: Python's error numbers, and words in the messages of safetensors and torch, whose errors have none.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_MESSAGES = (
    "No space left on device",
    "File too large",
    "quota exceeded",
    "PytorchStreamWriter failed writing",
    "unexpected pos",
)

_jitter = random.Random()  # not the global generator: a push must not change a run's random numbers


class HubError(OSError):
    """A request to the Hub failed for good. The message says what, why, what to do, and where the files are."""


class ConflictError(Exception):
    """A conflict that huggingface_hub took for "it already exists". It may be temporary."""


def with_retries(
    operation: Callable[[], T],
    what: str,
    kept: object = None,
    *,
    patience: float | None = None,
    first_wait: float | None = None,
) -> T:
    """Run `operation` until it succeeds, as long as its errors may be temporary.

    Temporary errors are conflicts, rate limits (with the wait that the Hub asks for), errors of the Hub itself, dropped
    connections and timeouts. A log line announces each further try with its reason.

    Args:
        operation: a function that can be repeated without harm.
        what: its description for messages, such as `"pushing runs/sums to org/sums"`.
        kept: the local folder that holds the complete upload, for the error's message.
        patience: total seconds of waiting between tries. Default: `PATIENCE`.
        first_wait: seconds before the second try. Default: `FIRST_WAIT`.

    Raises:
        HubError: the operation failed because of the network, the Hub, the token or the disk. Any other error is a mistake in
            the call, and is raised unchanged.

    >>> with_retries(lambda: "done", "pushing runs/sums to org/sums")
    'done'
    """
    wait, tries = FIRST_WAIT if first_wait is None else first_wait, 0
    left = PATIENCE if patience is None else patience
    while True:
        tries += 1
        try:
            return operation()
        except HubError:
            raise
        except Exception as raised:
            error: Exception = raised
            # The reason why a file could not be looked up or stored on the Hub.
            wrapped = raised.__cause__ if isinstance(raised, (LocalEntryNotFoundError, RuntimeError)) else None
            if isinstance(wrapped, Exception) and _advice(wrapped) is not None:
                error = wrapped
            if (advice := _advice(error)) is None:
                raise
            pause = max(wait * _jitter.uniform(0.75, 1.25), _asked_wait(error))
            if not _may_pass(error, tries) or pause > left:
                raise HubError(_message(error, advice, what, kept, tries)) from raised
            logger.warning("%s: try %d failed, the next follows in %.1f s: %s", what, tries, pause, cause(error))
        time.sleep(pause)
        left -= pause
        wait = min(2 * wait, LONGEST_WAIT)


def make_repo(make: Callable[[], T]) -> T:
    """Run `make`, which calls `create_repo(exist_ok=True)`.

    Raises:
        ConflictError: the Hub reported a conflict other than an existing repository, and so gave no address.
    """
    try:
        return make()
    except KeyError as error:
        if error.args != ("url",):
            raise
        raise ConflictError("409 Conflict, and no address of a repository") from error


def make_branch(api: HfApi, repo_id: str, branch: str, **options: Any) -> None:
    """Create a branch, unless it exists. `options` (`repo_type`, `token`) go to `HfApi`.

    Raises:
        ConflictError: the Hub reported a conflict other than an existing branch.
    """
    api.create_branch(repo_id, branch=branch, exist_ok=True, **options)
    try:
        api.repo_info(repo_id, revision=branch, **options)
    except RevisionNotFoundError as error:
        raise ConflictError(f"409 Conflict, and no branch {branch!r}") from error


def cause(error: BaseException) -> str:
    """An error in one line."""
    text = re.sub(r"For more information check: \S+", "", str(error))  # a page about the status in general
    return " ".join(f"{type(error).__name__}: {text}".split())


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because there is no space."""
    number = getattr(error, "errno", None)
    return number in DISK_ERRORS or any(message in str(error) for message in DISK_MESSAGES)


def _may_pass(error: Exception, tries: int) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in MAY_PASS
    if isinstance(error, OfflineModeIsEnabled):  # which is a ConnectionError
        return False
    if type(error).__name__ in NO_CONNECTION:
        return tries < CONNECTION_TRIES
    return isinstance(error, (ConflictError, HTTPError, ConnectionError, TimeoutError))


def _asked_wait(error: Exception) -> float:
    """Seconds that the Hub asks to wait; 0 if it does not ask, or names a date instead."""
    if not isinstance(error, HfHubHTTPError) or error.response.status_code not in MAY_PASS:
        return 0.0
    asked = error.response.headers.get("Retry-After", "")
    # If a limit is used up, the Hub gives the seconds until its reset: `"api";r=0;t=55`.
    limit = re.search(r";\s*r=0\s*;\s*t=(\d+)", error.response.headers.get("RateLimit", ""))
    return max(float(asked) if asked.isdigit() else 0.0, float(limit[1]) if limit else 0.0)


def _advice(error: Exception) -> str | None:
    """Advice about an error of the network, the Hub, the token or the disk; `None` for any other error."""
    if is_disk_full(error):
        return "The disk is full (or a quota or size limit is reached): free some space, then try again."
    if isinstance(error, OfflineModeIsEnabled):
        return "Offline mode is on: unset HF_HUB_OFFLINE, or do not push (push_to_hub=False)."
    if isinstance(error, LocalTokenNotFoundError):
        return "No token was found: log in with `hf auth login`, or set HF_TOKEN."
    overloaded = "The Hub is overloaded, rate-limited or failing, or others write there too: try again later."
    if isinstance(error, ConflictError):
        return overloaded
    if not isinstance(error, HfHubHTTPError):
        if type(error).__name__ in NO_CONNECTION:
            return f"There is no connection to {constants.ENDPOINT}: check the network, the proxy and HF_ENDPOINT."
        passing = isinstance(error, (HTTPError, ConnectionError, TimeoutError))
        return "The connection broke or was too slow: try again." if passing else None
    status = error.response.status_code
    if status == 401:
        return "The Hub does not know the token, or got none: log in with `hf auth login`, or set HF_TOKEN to a valid token."
    if status == 403:
        return "The token may not write there: use one with write permission for this repository, or a repository of your own."
    if isinstance(error, RevisionNotFoundError):
        return "The branch does not exist: create it, or name another revision."
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return "The repository does not exist, or the token cannot see it: check its name and the token."
    if status in MAY_PASS:
        return overloaded
    return "The Hub refuses this; its answer says why."


def _message(error: Exception, advice: str, what: str, kept: object, tries: int) -> str:
    after = f" after {tries} tries" if tries > 1 else ""
    safe = f" Nothing is lost: all of it is in {kept}." if kept is not None and not is_disk_full(error) else ""
    return f"{what} failed{after}. {advice}{safe} ({cause(error)})"
