"""One local Hub for all tests of a file. `hub_client.py` has the requests to it, and `run_with`."""

from __future__ import annotations

import pytest
from hub_client import serving


@pytest.fixture(scope="module")
def hub():
    with serving() as client:
        yield client
