"""Temporary faults are retried until they pass; permanent ones give one clear error. A real HTTP server makes the faults."""

from __future__ import annotations

import json

import pytest
from hub_client import HERE, run_with

pytestmark = pytest.mark.quick

WRITTEN = {"small.txt", "large.bin"}
PASSING = ("409", "412", "500", "502", "503", "504", "dropped request", "lost answer", "broken answer", "slow")
PASSING += ("rate limit", "limit", "new repository", "lost repository")
PASSING += ("repository conflict", "branch conflict", "storage conflict")
# What the message must say: the cause, as the Hub or the system tells it, and what can be done.
FOR_GOOD = {
    "always 500": ("the database is away", "try again later", "after"),
    "storage down": ("409", "try again later", "after"),
    "come back in an hour": ("429", "try again later"),
    "refused": ("BadRequestError", "a file has a name that is not allowed"),
    "wrong token": ("401", "log in with `hf auth login`"),
    "read-only token": ("403", "write permission"),
    "someone else's": ("403", "a repository of your own"),
    "missing repository": ("404", "does not exist, or the token cannot see it"),
    "missing branch": ("404", "The branch does not exist"),
    "no network": ("ConnectError", "check the network", "after 3 tries"),
    "full disk": ("No space left on device", "free some space"),
}


@pytest.fixture(scope="module")
def found(hub, tmp_path_factory):
    """What became of each scenario of `retry_worker.py`."""
    results = tmp_path_factory.mktemp("retries") / "results.json"
    run_with(hub, results.parent, str(HERE / "retry_worker.py"), str(results))
    return json.loads(results.read_text())


@pytest.mark.parametrize("scenario", [*PASSING, "storage"])
def test_what_may_pass_is_tried_again_until_it_succeeds(hub, found, scenario):
    outcome = found[scenario]
    assert outcome["error"] is None
    branch = "trial%2F1" if scenario == "branch conflict" else "main"
    assert hub.files(outcome["repo_id"], branch) >= WRITTEN
    if scenario != "slow":  # there the first request is looked at when the second has long been answered
        assert hub.history(outcome["repo_id"], branch) == ["all of it", "initial commit"]  # once


@pytest.mark.parametrize("scenario", PASSING)
def test_every_further_try_is_in_the_log_with_its_cause(found, scenario):
    lines = found[scenario]["log"]
    assert len(lines) == (2 if scenario in ("409", "412", "500", "502", "503", "504") else 1)
    assert all(line.startswith(f"pushing to {found[scenario]['repo_id']}: try ") for line in lines)
    if scenario.isdigit():
        assert all(scenario in line for line in lines)


@pytest.mark.parametrize("scenario", ["rate limit", "limit"])
def test_the_hub_is_given_the_time_that_it_asks_for(hub, found, scenario):
    path = f"/api/models/{found[scenario]['repo_id']}/commit/main"
    first, second = (request["time"] for request in hub.requests() if request["path"] == path)
    assert second - first >= 1.0


@pytest.mark.parametrize("scenario", FOR_GOOD)
def test_what_cannot_pass_is_one_clear_error(found, scenario):
    outcome = found[scenario]
    assert outcome["error"]["type"] == "HubError"
    for part in (f"pushing to {outcome['repo_id']} failed", *FOR_GOOD[scenario]):
        assert part in outcome["error"]["text"]
    assert ("Nothing is lost" in outcome["error"]["text"]) == (scenario != "full disk")
    if scenario not in ("always 500", "storage down", "no network"):
        assert not outcome["log"]  # no second try
    assert outcome["seconds"] < 5


def test_the_tries_end_when_the_patience_does(found):
    assert len(found["always 500"]["log"]) >= 2
    assert found["always 500"]["seconds"] < 5


def test_a_mistake_in_the_call_stays_what_it_is(found):
    assert found["our mistake"]["error"] == {"type": "TypeError", "text": "an argument is missing"}
