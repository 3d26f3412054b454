"""A small Hugging Face Hub for model repositories, which tests talk to over real HTTP. Standard library and PyYAML only.

    python tests/hub/hub_server.py       # prints "READY http://127.0.0.1:PORT" and ends when its stdin is closed
    HF_ENDPOINT=http://127.0.0.1:PORT HF_TOKEN=dummy HF_HUB_DISABLE_XET=1 python ...

Repositories are git-like (commits, blob ids, LFS pointers) and live in memory. The server is strict on purpose: a route that it
does not know is a 501, a commit that names an LFS object that was never uploaded a 400, a stale parent commit a 412, a write
without a token a 401, and the Hub's token sent to the LFS storage a 400. `GET /-/requests` is the log of all requests;
`POST /-/faults` with `{"method", "path" (a regular expression), "status", "times", "message"}` makes requests fail.
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import hashlib
import json
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

USER = "user"
LFS_SIZE = 10 * 1024 * 1024  # the Hub asks for LFS above this, for what .gitattributes names and for binary content
LFS_PATTERNS = ("bin", "gz", "h5", "npy", "npz", "onnx", "parquet", "pkl", "pt", "pth", "safetensors", "tar", "zip")
GITATTRIBUTES = "".join(f"{p} filter=lfs diff=lfs merge=lfs -text\n" for p in (*(f"*.{e}" for e in LFS_PATTERNS), "*tfevents*"))
FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n?---", re.S)


def git_oid(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Entry:
    """A file in a tree. `oid` is the git blob id: of the content, or of the pointer file if `sha256` says that it is in LFS."""

    size: int
    oid: str
    sha256: str | None = None
    pointer_size: int = 0

    def describe(self) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        return {"oid": self.oid, "size": self.size, **({"lfs": lfs} if self.sha256 else {})}


@dataclass(frozen=True)
class Commit:
    oid: str
    tree: dict[str, Entry]
    parent: str | None
    title: str
    message: str
    date: str


@dataclass
class Repo:
    id: str
    created: str = field(default_factory=now)
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, branch: str, tree: dict[str, Entry], title: str, message: str = "") -> Commit:
        parent = self.branches.get(branch)
        body = json.dumps([{path: e.oid for path, e in sorted(tree.items())}, parent, title, message, len(self.commits)])
        commit = Commit(git_oid("commit", body.encode()), tree, parent, title, message, now())
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def resolve(self, revision: str) -> Commit:
        revision = revision.removeprefix("refs/heads/")
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> Iterator[Commit]:
        commit: Commit | None = self.resolve(revision)
        while commit:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None


class Refusal(Exception):
    """An answer that is an error, in the form in which the Hub gives it."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message}
        self.headers = {"X-Error-Message": message.replace("\n", " "), **headers}
        if code:
            self.headers["X-Error-Code"] = code


class Hub(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.storage_url = f"http://localhost:{self.server_address[1]}"  # LFS is on another origin, as on the Hub
        self.lock = threading.RLock()
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # by git blob id
        self.lfs: dict[str, bytes] = {}  # by sha256
        self.requests: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []

    def store(self, data: bytes) -> Entry:
        entry = Entry(len(data), git_oid("blob", data))
        self.blobs[entry.oid] = data
        return entry

    def store_lfs(self, sha256: str, size: int) -> Entry:
        if len(self.lfs.get(sha256, b"")) != size:
            raise Refusal(400, f"LFS object {sha256} was not uploaded (or has another size)")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return Entry(size, git_oid("blob", pointer), sha256, len(pointer))

    def content(self, entry: Entry) -> bytes:
        return self.lfs[entry.sha256] if entry.sha256 else self.blobs[entry.oid]


MODEL = r"/api/models/([^/]+/[^/]+)"
SHA256 = r"([0-9a-f]{64})"
ROUTES: list[tuple[str, re.Pattern[str], str]] = []


def route(methods: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(function: Callable[..., None]) -> Callable[..., None]:
        ROUTES.extend((method, re.compile(pattern), function.__name__) for method in methods.split("|"))
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    # Plumbing ---------------------------------------------------------------------------------------------------------

    def log_message(self, *args: Any) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def send(self, status: int, data: Any = b"", **headers: str) -> None:
        """Keep the answer; it is written when the lock is free."""
        if not isinstance(data, bytes):
            data, headers = json.dumps(data).encode(), {"Content-Type": "application/json; charset=utf-8", **headers}
        self.reply = status, data, {"Content-Length": str(len(data)), **headers}

    def write_reply(self) -> None:
        status, data, headers = self.reply
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_any(self) -> None:
        path, _, query = self.path.partition("?")
        self.data, self.query = self.body(), parse_qs(query)
        self.authorised = self.headers.get("Authorization", "").startswith("Bearer ")
        name = "FAULT"
        try:
            if fault := self.fault(path):
                raise Refusal(fault["status"], fault["message"])
            name = "UNKNOWN"
            for method, pattern, function in ROUTES:
                if method == self.command and (match := pattern.fullmatch(path)):
                    name = function
                    with self.server.lock:
                        getattr(self, function)(*[unquote(group or "") for group in match.groups()])
                    break
            else:
                raise Refusal(501, f"the test hub has no {self.command} {path}")
        except Refusal as refusal:
            self.send(refusal.status, refusal.body, **refusal.headers)
        except Exception as error:  # a mistake here, or a request that no real client sends
            self.send(500, {"error": f"{type(error).__name__}: {error}"})
            traceback.print_exc()
        if not path.startswith("/-/"):
            entry = {"method": self.command, "path": self.path, "route": name, "status": self.reply[0]}
            self.server.requests.append({**entry, "agent": self.headers.get("User-Agent", "")})
        try:
            self.write_reply()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def fault(self, path: str) -> dict[str, Any] | None:
        for fault in self.server.faults:
            if fault["times"] > 0 and fault["method"] == self.command and re.search(fault["path"], path):
                fault["times"] -= 1
                return fault
        return None

    def json(self) -> dict[str, Any]:
        return json.loads(self.data or b"{}")

    def repo(self, repo_id: str, write: bool = False) -> Repo:
        if write:
            self.need_write(repo_id.split("/")[0])
        if repo_id not in self.server.repos:
            raise Refusal(404 if self.authorised else 401, "Repository not found", "RepoNotFound")
        return self.server.repos[repo_id]

    def need_write(self, namespace: str) -> None:
        if not self.authorised:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if namespace != USER:
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{namespace}"')

    def need_no_token(self) -> None:
        if "Authorization" in self.headers:
            raise Refusal(400, "Only one auth mechanism allowed: the Hub's token was sent to the storage host")

    # For the test -----------------------------------------------------------------------------------------------------

    @route("GET", "/-/requests")
    def list_requests(self) -> None:
        self.send(200, self.server.requests)

    @route("POST", "/-/faults")
    def add_fault(self) -> None:
        self.server.faults.append({"times": 1, "message": "injected fault", **self.json()})
        self.send(200, {})

    # Account and repositories -----------------------------------------------------------------------------------------

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        self.need_write(USER)
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        self.send(200, {"type": "user", "id": "0", "name": USER, "fullname": USER, "orgs": [], "auth": token})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        import yaml  # a dependency of huggingface_hub

        meta, errors = {}, []
        if match := FRONT_MATTER.match(self.json()["content"]):
            try:
                meta = yaml.safe_load(match[1]) or {}
            except yaml.YAMLError as error:
                errors.append(f"YAML metadata is invalid: {error}")
        if not isinstance(meta, dict):
            errors.append("YAML metadata must be a mapping")
        elif not isinstance(meta.get("license", ""), (str, list)):
            errors.append('"license" must be a string')
        elif not isinstance(meta.get("model-index", []), list):
            errors.append('"model-index" must be an array')
        self.send(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        options = self.json()
        if options.get("type") not in (None, "model"):
            raise Refusal(501, "the test hub has models only")
        namespace = options.get("organization") or USER
        self.need_write(namespace)
        repo_id = f"{namespace}/{options['name']}"
        answer = {"url": f"{self.server.url}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.server.repos:
            return self.send(409, {"error": f"You already created this model repo: {repo_id}", **answer})
        repo = self.server.repos[repo_id] = Repo(repo_id)
        repo.commit("main", {".gitattributes": self.server.store(GITATTRIBUTES.encode())}, "initial commit")
        self.send(200, answer)

    @route("GET", f"{MODEL}/refs")
    def refs(self, repo_id: str) -> None:
        heads = self.repo(repo_id).branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in heads]
        self.send(200, {"branches": branches, "tags": [], "converts": [], "pullRequests": []})

    @route("GET", f"{MODEL}/commits/([^/]+)")
    def commits(self, repo_id: str, revision: str) -> None:
        self.send(
            200,
            [
                {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": USER}]}
                for c in self.repo(repo_id).history(revision)
            ],
        )

    @route("GET", f"{MODEL}(?:/revision/([^/]+))?")
    def info(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        commit = repo.resolve(revision or "main")
        files = [{"rfilename": path} for path in sorted(commit.tree)]
        answer = {"_id": "0", "id": repo.id, "modelId": repo.id, "author": USER, "sha": commit.oid, "siblings": files}
        answer |= {"lastModified": commit.date, "createdAt": repo.created, "private": False, "gated": False, "disabled": False}
        self.send(200, {**answer, "downloads": 0, "likes": 0, "tags": []})

    @route("GET", f"{MODEL}/tree/([^/]+)(?:/(.*))?")
    def tree(self, repo_id: str, revision: str, path: str) -> None:
        tree, path = self.repo(repo_id).resolve(revision).tree, path.strip("/")
        base = f"{path}/" if path else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        nodes: dict[str, dict[str, Any]] = {}
        for file, entry in tree.items():
            if file.startswith(base):
                parts = file[len(base) :].split("/")
                for i in range(1, len(parts)):
                    folder = base + "/".join(parts[:i])
                    nodes[folder] = {"type": "directory", "oid": git_oid("tree", folder.encode()), "size": 0, "path": folder}
                nodes[file] = {"type": "file", "path": file, **entry.describe()}
        if path and not nodes:
            raise Refusal(404, f'{path} does not exist on "{revision}"', "EntryNotFound")
        self.send(200, [node for name, node in sorted(nodes.items()) if recursive or "/" not in name[len(base) :]])

    # Writing ----------------------------------------------------------------------------------------------------------

    @route("POST", f"{MODEL}/preupload/([^/]+)")
    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id, write=True)
        tree = repo.resolve(revision).tree
        attributes = self.server.content(tree[".gitattributes"]).decode() if ".gitattributes" in tree else ""
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        files = []
        for file in self.json()["files"]:
            name, old = file["path"].rsplit("/", 1)[-1], tree.get(file["path"])
            binary = file["size"] > LFS_SIZE or b"\0" in base64.b64decode(file["sample"])
            mode = "lfs" if binary or any(fnmatch.fnmatch(name, pattern) for pattern in patterns) else "regular"
            known = {"oid": old.sha256 or old.oid} if old else {}
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        self.send(200, {"files": files, "commitOid": repo.branches.get(revision)})

    @route("POST", f"{MODEL}/commit/([^/]+)")
    def commit(self, repo_id: str, branch: str) -> None:
        repo = self.repo(repo_id, write=True)
        head = repo.resolve(branch)
        if branch not in repo.branches or "create_pr" in self.query:
            raise Refusal(400, f"{branch} is not a branch, or a pull request was asked for")
        tree, header = dict(head.tree), {}
        for line in filter(None, self.data.split(b"\n")):
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = value
                if value.get("parentCommit") not in (None, head.oid):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                tree[value["path"]] = self.server.store(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                size = value["size"] if "size" in value else len(self.server.lfs.get(value["oid"], b""))
                tree[value["path"]] = self.server.store_lfs(value["oid"], size)
            elif key == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise Refusal(404, f"{value['path']} does not exist", "EntryNotFound")
            else:
                raise Refusal(400, f"unknown operation {key}")
        new = repo.commit(branch, tree, header.get("summary", ""), header.get("description", ""))
        url = f"{self.server.url}/{repo.id}/commit/{new.oid}"
        self.send(200, {"success": True, "commitOid": new.oid, "commitUrl": url, "hookOutput": ""})

    @route("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo_id: str) -> None:
        self.repo(repo_id, write=True)
        objects = []
        for wanted in self.json()["objects"]:
            oid, storage = wanted["oid"], f"{self.server.storage_url}/-lfs/{wanted['oid']}"
            actions = {
                "upload": {"href": storage, "header": {}},
                "verify": {"href": f"{self.server.url}/-lfs/{oid}/verify", "header": {}},
            }
            known = oid in self.server.lfs
            objects.append({"oid": oid, "size": wanted["size"], **({} if known else {"actions": actions})})
        self.send(200, {"transfer": "basic", "objects": objects})

    @route("PUT", f"/-lfs/{SHA256}")
    def lfs_put(self, oid: str) -> None:
        self.need_no_token()
        if hashlib.sha256(self.data).hexdigest() != oid:
            raise Refusal(400, f"content does not hash to {oid}")
        self.server.lfs[oid] = self.data
        self.send(200)

    @route("POST", f"/-lfs/{SHA256}/verify")
    def lfs_verify(self, oid: str) -> None:
        if len(self.server.lfs.get(oid, b"")) != self.json()["size"]:
            raise Refusal(404, "object not found")
        self.send(200, {})

    # Reading ----------------------------------------------------------------------------------------------------------

    @route("GET|HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        commit = self.repo(repo_id).resolve(revision)
        headers = {"X-Repo-Commit": commit.oid}
        if (entry := commit.tree.get(path)) is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
        if entry.sha256:  # huggingface_hub takes these headers from the redirect itself, which it does not follow for a HEAD
            headers |= {"X-Linked-Size": str(entry.size), "X-Linked-ETag": f'"{entry.sha256}"'}
            return self.send(302, Location=f"{self.server.storage_url}/-lfs/{entry.sha256}", **headers)
        self.send(200, self.server.content(entry), ETag=f'"{entry.oid}"', **headers)

    @route("GET|HEAD", f"/-lfs/{SHA256}")
    def lfs_get(self, oid: str) -> None:
        self.need_no_token()
        if oid not in self.server.lfs:
            raise Refusal(404, "no such object")
        self.send(200, self.server.lfs[oid], ETag=f'"{oid}"')


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="any free one by default")
    hub = Hub(parser.parse_args().port)
    print("READY", hub.url, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), hub.shutdown()), daemon=True).start()  # it ends with its parent
    hub.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
