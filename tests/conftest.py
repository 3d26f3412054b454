"""For all tests: the models are tiny, and the path that is tested is that of large ones.

`with_radius` leaves few numbers to autograd. Tests in processes of their own take that path, test_functional.py takes both.
"""

from __future__ import annotations

import pytest

from hf_radial.penalty import functional

FEW = functional.FEW


@pytest.fixture(autouse=True)
def as_if_vectors_were_many(monkeypatch):
    monkeypatch.setattr(functional, "FEW", 0)


@pytest.fixture
def as_in_other_processes(as_if_vectors_were_many, monkeypatch):
    """For what is compared, to the bit, with a run in a process of its own."""
    monkeypatch.setattr(functional, "FEW", FEW)
