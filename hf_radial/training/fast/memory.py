"""Memory of the host that training frees is kept for the next step, where the C library would hand it back to the system.

A step allocates and frees the same tensors as the step before. glibc gives the end of its heap back when some megabytes of it
are free, and whether they are in one piece is a matter of luck; then the system has to map and clear every page again in the
next step. That can take a tenth of the time of a step whose tensors have megabytes.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

# What mallopt(3) calls them, in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 256 * 2**20
LARGEST_ON_HEAP = 32 * 2**20  # what glibc itself grows to


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB that it has freed; whether its C library has such a setting. Asked once a process.

    A threshold that the user has set in the environment (`MALLOC_TRIM_THRESHOLD_`, `GLIBC_TUNABLES`) is left as it is.
    """
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - others may have a mallopt of another meaning
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP) and mallopt(M_TRIM_THRESHOLD, KEPT))
