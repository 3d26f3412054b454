"""Freed memory is kept: the next step does not wait until the system has mapped and cleared it again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hf_radial.internals.memory import keep_freed_memory

# A step that allocates 24 MB in blocks of one, writes into them and frees all of it.
STEPS = """
import ctypes
import resource
import sys

from hf_radial.internals.memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(2**20) for _ in range(24)]
    for block in blocks:
        ctypes.memset(block, 1, 2**20)
    for block in reversed(blocks):
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(what: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", STEPS, what]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is the C library of Linux")
def test_a_step_takes_the_memory_of_the_step_before():
    if not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""):
        pytest.skip("the C library is another")
    assert page_faults("keep") < 200 < 20_000 < page_faults("leave")


def test_what_the_user_has_set_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
