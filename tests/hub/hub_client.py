"""Requests of tests to the local Hub, and processes that use it as the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from warm import run_python

HERE = Path(__file__).parent
SERVER = HERE / "hub_server.py"
# A process that loads models and compares them with files of weights.
WITHOUT_US = """
import json, sys
sys.modules["hf_radial"] = None  # importing it is an error

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

for model_id, weights in json.loads(sys.argv[1]).items():
    name, _, revision = model_id.partition("@")
    model = AutoModelForCausalLM.from_pretrained(name, revision=revision or "main")
    state, expected = model.state_dict(), load_file(weights)
    assert state.keys() == expected.keys(), state.keys() ^ expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), (model_id, name)
"""


class HubClient:
    """Plain HTTP, without huggingface_hub. `kind` is "model" or "dataset"."""

    def __init__(self, url: str) -> None:
        self.url = url

    def read(self, path: str, data: Any = None, method: str | None = None, token: str | None = "dummy") -> bytes:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {}, method=method)
        if token is not None:
            # Not sent along to where a file is stored, which refuses it.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return response.read()

    def requests(self) -> list[dict[str, Any]]:
        return json.loads(self.read("/-/requests"))

    def fail(self, **fault: Any) -> None:
        """Make requests fail; see `hub_server.Fault` for what can be said."""
        self.read("/-/faults", fault)

    def heal(self) -> None:
        """From now on no request fails."""
        self.read("/-/faults", method="DELETE")

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> set[str]:
        nodes = json.loads(self.read(f"/api/{kind}s/{repo_id}/tree/{revision}?recursive=true"))
        return {node["path"] for node in nodes if node["type"] == "file"}

    def file(self, repo_id: str, path: str, revision: str = "main", kind: str = "model") -> bytes:
        return self.read(f"/{'datasets/' if kind == 'dataset' else ''}{repo_id}/resolve/{revision}/{path}")

    def history(self, repo_id: str, revision: str = "main", kind: str = "model") -> list[str]:
        """Titles of all commits, the newest first."""
        return [commit["title"] for commit in json.loads(self.read(f"/api/{kind}s/{repo_id}/commits/{revision}"))]

    def commits(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, str]:
        """Revisions by title, the newest first."""
        commits = json.loads(self.read(f"/api/{kind}s/{repo_id}/commits/{revision}"))
        return {commit["title"]: commit["id"] for commit in commits}

    def branches(self, repo_id: str, kind: str = "model") -> set[str]:
        return {branch["name"] for branch in json.loads(self.read(f"/api/{kind}s/{repo_id}/refs"))["branches"]}

    def is_private(self, repo_id: str, kind: str = "model") -> bool:
        return json.loads(self.read(f"/api/{kind}s/{repo_id}"))["private"]


@contextmanager
def serving(*options: str):
    """A Hub of its own, which ends with the block; it fails if the Hub was asked what it does not know."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(SERVER), *options], text=True, **pipes) as server:
        try:
            assert server.stdout is not None
            ready = server.stdout.readline().split()
            assert ready[:1] == ["READY"], "the test hub did not start; its error is above"
            client = HubClient(ready[1])
            yield client
            unknown = [request for request in client.requests() if request["route"] == "UNKNOWN" or request["status"] == 501]
            assert not unknown, "requests that the test hub does not know; teach it if they are the Hub's"
        finally:
            server.terminate()  # where pytest is killed, the server ends with its stdin


def environment(hub: HubClient, home: Path, **variables: str) -> dict[str, str]:
    """Of a process whose Hub is the test's: huggingface_hub reads these variables once, when it is imported."""
    ours = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    set_here = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "dummy",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        # The package and the tests' helpers.
        "PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "support", HERE))),
    }
    return inherited | set_here | variables


def run_with(hub: HubClient, home: Path, *command: str, status: int = 0, **variables: str) -> str:
    """Run Python with this Hub until it ends, with the expected exit `status`; `variables` are added to its environment.

    Returns:
        What it wrote to stdout and stderr.
    """
    result = run_python(*command, env=environment(hub, home, **variables), cwd=home, merge=True)
    assert result.returncode == status, result.stdout
    return result.stdout
