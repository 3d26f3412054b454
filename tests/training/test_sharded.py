"""Sharded models: one step changes the full parameters as in an unsharded step on the unsplit batch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from reference import check_step
from sharded_worker import DEEPSPEED_CASES, FSDP_CASES, LAMBDA, MAKE
from two_processes import launch


def launched(what: str, folder: Path) -> Path:
    launch("sharded_worker.py", what, str(folder))
    return folder


def check(folder: Path, name: str, kind: str, accumulation: int) -> None:
    batches = [torch.load(folder / f"{name}_{rank}.pt") for rank in range(2)]
    assert [len(each) for each in batches] == [accumulation] * 2
    counts = [sum(int(batch["attention_mask"].sum()) for batch in each) for each in batches]
    assert counts[0] != counts[1]
    moved = torch.load(folder / f"{name}.pt")
    log = json.loads((folder / f"{name}.json").read_text())
    check_step(MAKE[kind](), batches[0] + batches[1], moved, log, LAMBDA)


@pytest.fixture(scope="module")
def fsdp_folder(tmp_path_factory):
    return launched("fsdp", tmp_path_factory.mktemp("fsdp"))


@pytest.mark.parametrize("name", FSDP_CASES)
def test_fsdp2(name, fsdp_folder):
    kind, _, accumulation, _ = FSDP_CASES[name]
    check(fsdp_folder, name, kind, accumulation)


@pytest.fixture(scope="module")
def deepspeed_folder(tmp_path_factory):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: it compiles its operators with ninja, and is no test requirement")
    return launched("deepspeed", tmp_path_factory.mktemp("deepspeed"))


@pytest.mark.parametrize("name", DEEPSPEED_CASES)
def test_deepspeed_zero(name, deepspeed_folder):
    kind, _, accumulation, _, _ = DEEPSPEED_CASES[name]
    check(deepspeed_folder, name, kind, accumulation)
