"""The page of runs that go on, on a server for this machine alone: `hf-radial report --live RUN [RUN ...]`.

The page asks every second for rows that it does not have; `FollowedRun` reads what has changed. The server has two addresses,
the page and its rows. It serves no files. It answers only to its own name, so that a page of another site cannot read it
through the reader's browser (DNS rebinding).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_urlsafe
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hf_radial.report.accuracy_loss import epochs_per_step
from hf_radial.report.answer import Answer, answer, headline
from hf_radial.report.data import Sent, labels_of, new_rows, sites_of
from hf_radial.report.page import content_security_policy, make_page
from hf_radial.runs.files import group_runs, names_of, resolved_once, short_names
from hf_radial.runs.following import FollowedRun
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC

SECONDS_BETWEEN_LOOKS = 0.5
LONGEST_WAIT = 30.0  # seconds for a client that says nothing


class Live:
    """Runs that are followed, and every row that was found since the start.

    Args:
        folders: output directories of runs. They may be empty as yet.
        train_metric: name of the accuracy on training rows in the log.
        held_out_metric: the same for held-out rows.
        title: the page's title.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: no folder is given, one is given twice, or one is a file.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        train_metric: str = TRAIN_METRIC,
        held_out_metric: str = HELD_OUT_METRIC,
        title: str | None = None,
    ) -> None:
        names = names_of(resolved_once(folders))
        self.followed = [FollowedRun(folder, name) for folder, name in zip(folders, names, strict=True)]
        self.metrics, self.title = (train_metric, held_out_metric), title
        self.session = token_urlsafe(12)
        self._sent = [Sent() for _ in self.followed]
        self._answers: list[Answer | None] = [None] * len(self.followed)
        self._changes: list[dict[str, Any]] = []
        self._lock = Lock()
        self._looked, self._news = 0.0, 0.0

    def page(self) -> str:
        """The page with all rows so far."""
        with self._lock:
            self._look()
            runs = [one.run for one in self.followed]
            live = {"session": self.session, "after": len(self._changes)}
            return make_page(runs, *self.metrics, self.title, live)

    def rows(self, after: int) -> dict[str, Any]:
        """What was found after so many changes: the changes, their number now, and a line of news."""
        with self._lock:
            self._look()
            found: dict[str, Any] = {"changes": self._changes[after:], "after": len(self._changes), "news": self._told()}
            if found["changes"]:
                answers = [one or Answer("", None, None, {}) for one in self._answers]
                found["headline"] = headline(self._labels(), answers)
            return found

    def _look(self) -> None:
        """Look at the files, unless that was done a moment ago, and note what is new."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        for number, followed in enumerate(self.followed):
            if not followed.poll():
                continue
            run = followed.run
            try:
                told = answer(run, *self.metrics)
            except ValueError as error:
                followed.trouble["its log"] = str(error)
                continue
            sites = sites_of(run)
            change = new_rows(run, self._sent[number], *self.metrics)
            if change or told != self._answers[number]:
                change |= {"answer": told.as_dict(), "sites": sites, "names": short_names(sites)}
                change["epochs"] = epochs_per_step(run)
                self._changes.append({"run": run.name, **change})
                self._answers[number] = told
                self._news = time.time()
        self._looked = time.monotonic()

    def _labels(self) -> list[str]:
        groups = group_runs([one.run for one in self.followed])
        labels = {run.name: label for group in groups for run, label in labels_of(group)}
        return [labels[one.run.name] for one in self.followed]

    def _told(self) -> str:
        said = [f"last news {time.strftime('%H:%M:%S', time.localtime(self._news))}" if self._news else "no row yet"]
        for one in self.followed:
            said += [f"{one.run.name}: {file} cannot be read yet ({why[:120]})" for file, why in one.trouble.items()]
        return "; ".join(said)


class LiveServer(ThreadingHTTPServer):
    """The server of a `Live` on 127.0.0.1.

    Args:
        live: what it serves.
        port: 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, live: Live, port: int = 0) -> None:
        self.live = live
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a reader who closed the page meanwhile."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    server_version = "hf_radial"
    sys_version = ""
    timeout = LONGEST_WAIT

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.headers.get_all("Host", []) not in ([f"127.0.0.1:{port}"], [f"localhost:{port}"]):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", "this server answers to 127.0.0.1 and localhost only\n")
            return
        foreign = self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        if foreign and self.headers.get("Sec-Fetch-Mode") != "navigate":  # a link to the page is welcome
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "this server answers to its own page only\n")
            return
        address = urlsplit(self.path)
        if address.path == "/":
            try:
                page = self.server.live.page()
            except ValueError as error:  # such as an accuracy in percent; the message says which and what to do
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}\n")
                return
            self._answer(HTTPStatus.OK, "text/html", page, page=True)
        elif address.path == "/rows":
            self._rows(parse_qs(address.query))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is only the page, /\n")

    def _rows(self, asked: dict[str, list[str]]) -> None:
        live, after = self.server.live, asked.get("after", [""])[-1]
        if asked.get("session") != [live.session]:
            self._answer(HTTPStatus.GONE, "text/plain", "another session; load the page again\n")
        elif not after.isascii() or not after.isdigit() or len(after) > 12:
            self._answer(HTTPStatus.BAD_REQUEST, "text/plain", "after must be a whole number\n")
        else:
            self._answer(HTTPStatus.OK, "application/json", json.dumps(live.rows(int(after)), allow_nan=False))

    def _answer(self, status: HTTPStatus, kind: str, text: str, page: bool = False) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": content_security_policy(live=True) if page else "default-src 'none'",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a page that asks every second would fill the terminal."""


def serve(live: Live, port: int = 0) -> None:
    """Serve until Ctrl+C, and print the address first.

    Raises:
        OSError: the port is taken.
    """
    with LiveServer(live, port) as server:
        print(f"{server.url}  (Ctrl+C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
