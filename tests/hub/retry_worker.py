"""Uploads a folder under the faults of `SCENARIOS`, each to a repository of its own, and writes what happened as JSON.

HF_ENDPOINT=... HF_TOKEN=dummy PYTHONPATH=tests/hub python tests/hub/retry_worker.py RESULTS.json
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path

from hub_client import HubClient
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils import httpx

from hf_radial.hub import retry

COMMIT = {"method": "POST", "path": "/commit/"}
REFUSED = {**COMMIT, "times": 100}
SCENARIOS = {
    # name: (faults, options of the operation)
    **{f"{status}": ([{**COMMIT, "status": status, "times": 2}], {}) for status in (409, 412, 500, 502, 503, 504)},
    "rate limit": ([{**COMMIT, "status": 429, "headers": {"Retry-After": "1"}}], {}),
    "limit": ([{**COMMIT, "status": 429, "headers": {"RateLimit": '"api";r=0;t=1'}}], {}),
    "dropped request": ([{**COMMIT, "drop": "before"}], {}),
    "lost answer": ([{**COMMIT, "drop": "answer"}], {}),
    "broken answer": ([{**COMMIT, "drop": "body"}], {}),
    "slow": ([{**COMMIT, "delay": 6.0}], {"timeout": 3.0}),
    "new repository": ([{"method": "POST", "path": "/repos/create", "status": 503}], {}),
    "lost repository": ([{"method": "POST", "path": "/repos/create", "drop": "answer"}], {}),
    "repository conflict": ([{"method": "POST", "path": "/repos/create", "status": 409}], {}),
    "branch conflict": ([{"method": "POST", "path": "/branch/", "status": 409}], {"branch": "trial/1"}),
    "storage conflict": ([{"method": "PUT", "path": "/-lfs/", "status": 409}], {}),
    "storage down": ([{"method": "PUT", "path": "/-lfs/", "status": 409, "times": 100}], {"patience": 0.5}),
    "storage": ([{"method": "PUT", "path": "/-lfs/", "drop": "before"}], {}),
    "always 500": ([{**REFUSED, "status": 500, "message": "the database is away"}], {"patience": 0.5}),
    "come back in an hour": ([{**REFUSED, "status": 429, "headers": {"Retry-After": "3600"}}], {}),
    "refused": ([{**REFUSED, "status": 400, "message": "a file has a name that is not allowed"}], {}),
    "wrong token": ([], {"token": "stolen"}),
    "read-only token": ([], {"token": "readonly"}),
    "someone else's": ([], {"namespace": "stranger"}),
    "missing repository": ([], {"create": False}),
    "missing branch": ([], {"revision": "nowhere"}),
    "no network": ([], {"endpoint": "http://127.0.0.1:9"}),
    "full disk": ([], {"raises": OSError(errno.ENOSPC, "No space left on device")}),
    "our mistake": ([], {"raises": TypeError("an argument is missing")}),
}


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def run(name, faults, folder, options):
    hub, kept = HubClient(os.environ["HF_ENDPOINT"]), Kept()
    retry.logger.addHandler(kept)
    repo_id = f"{options.get('namespace', 'user')}/{name.replace(' ', '-').replace(chr(39), '')}"
    api = HfApi(endpoint=options.get("endpoint"), token=options.get("token"))
    set_client_factory(lambda: httpx.Client(follow_redirects=True, timeout=options.get("timeout")))
    upload = {"repo_id": repo_id, "folder_path": folder, "revision": options.get("branch", options.get("revision"))}

    def operation():
        if "raises" in options:
            raise options["raises"]
        if options.get("create", True):
            retry.make_repo(partial(api.create_repo, repo_id, exist_ok=True))
        if "branch" in options:
            retry.make_branch(api, repo_id, options["branch"])
        return api.upload_folder(**upload, commit_message="all of it")

    # Another file every time: the storage does not ask again for one that it has.
    (Path(folder) / "large.bin").write_bytes(b"\0" * 1000 + name.encode())
    for fault in faults:
        hub.fail(**fault)
    begun, error = time.monotonic(), None
    try:
        retry.with_retries(operation, f"pushing to {repo_id}", folder, first_wait=0.05, patience=options.get("patience", 20))
    except Exception as raised:
        error = {"type": type(raised).__name__, "text": str(raised)}
    seconds = time.monotonic() - begun
    hub.heal()
    retry.logger.removeHandler(kept)
    return {"repo_id": repo_id, "error": error, "seconds": seconds, "log": kept.lines}


def main(results):
    folder = results.with_name("folder")
    folder.mkdir()
    (folder / "small.txt").write_text("text")
    found = {name: run(name, faults, folder, options) for name, (faults, options) in SCENARIOS.items()}
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
