"""Set-up for all tests: tiny models take the code path of large ones.

`with_radius` uses plain autograd for few numbers. Tests in their own processes take that path, test_functional.py takes both.

    make test ARGS="--cpu 20"     # also list the 20 tests and the 20 files that cost most: seconds of a core, processes and all
    make test ARGS="--shuffle 7"  # in another order, which no test may depend on
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections import Counter

import pytest
import two_processes
import warm
from chromium import browser  # noqa: F401 (a fixture)

from hf_radial.penalty import functional

FEW = functional.FEW
LOG_LEVEL = pytest.StashKey[int]()
# They cost most, so they begin first: else one process would be left with them in the end.
FIRST = ("test_compare_recipe", "test_compile", "test_installed", "test_report", "test_geometry_callback")


@pytest.fixture(autouse=True)
def as_if_vectors_were_many(monkeypatch):
    monkeypatch.setattr(functional, "FEW", 0)


@pytest.fixture
def as_in_other_processes(as_if_vectors_were_many, monkeypatch):
    """For what is compared, to the bit, with a run in a process of its own."""
    monkeypatch.setattr(functional, "FEW", FEW)


@pytest.fixture(autouse=True)
def log_level_of_transformers(request):
    """Each test finds transformers as loud as it was after collection, whatever was run before: recipes quieten it."""
    if (logging := sys.modules.get("transformers.utils.logging")) and (level := request.config.stash.get(LOG_LEVEL, None)):
        logging.set_verbosity(level)


def pytest_collection_finish(session):
    if logging := sys.modules.get("transformers.utils.logging"):
        session.config.stash[LOG_LEVEL] = logging.get_verbosity()


# Order ----------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption("--cpu", type=int, default=0, metavar="N", help="list the N tests and files that cost most CPU time")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="shuffle the files, and the tests within each")


def pytest_collection_modifyitems(config, items):
    """The same order in every process of a run, which pytest-xdist needs."""
    files = list(dict.fromkeys(item.path for item in items))
    files.sort(key=lambda path: FIRST.index(path.stem) if path.stem in FIRST else len(FIRST))
    seed = config.getoption("--shuffle")
    if seed is not None:
        draw = random.Random(seed)
        draw.shuffle(files)
        draw.shuffle(items)
    place = {path: i for i, path in enumerate(files)}
    items.sort(key=lambda item: place[item.path])


# Garbage --------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What is imported stays, so it is hidden from the garbage collector, as in `warm`.

    Each `Trainer.train()` collects garbage three times. Among a million objects of libraries that takes half a second. What a
    test makes is collected as ever.
    """
    global modules
    if len(sys.modules) != modules:
        modules = len(sys.modules)
        gc.collect()
        gc.freeze()


modules = 0


# CPU time -------------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """Of this process, and of all that it started and that ended."""
    return sum(os.times()[:4]) + warm.seconds_of_ended


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.stash[STARTED] = cpu_seconds()
    return (yield)


STARTED = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.user_properties.append(("cpu", cpu_seconds() - item.stash[STARTED]))
    item.stash[STARTED] = cpu_seconds()
    report.user_properties += [("tried again", script) for script in two_processes.tried_again]
    two_processes.tried_again.clear()
    return report


# Summary --------------------------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter, config):
    properties = [
        (report.nodeid, name, value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
    ]
    again = [f"{script} of {test}" for test, name, script in properties if name == "tried again"]
    if again:
        terminalreporter.section(f"tried again after an abort by Gloo: {len(again)}")
        for line in again:
            terminalreporter.line(line)
    count = config.getoption("--cpu")
    if not count:
        return
    tests, files = Counter(), Counter()
    for test, name, seconds in properties:
        if name == "cpu":
            tests[test] += seconds
            files[test.split("::")[0]] += seconds
    for what, costs in (("files", files), ("tests", tests)):
        terminalreporter.section(f"CPU time: {costs.total():.0f} s; the {what} that cost most")
        for name, seconds in costs.most_common(count):
            terminalreporter.line(f"{seconds:7.1f} s  {name}")
