"""Keep host memory that a training step frees for the next step, instead of returning it to the system.

A step allocates and frees the same tensors as the step before it. glibc returns the end of its heap to the system when some
megabytes there are free. The system then maps and clears every page again in the next step, which can take a tenth of the time
of a step with tensors of megabytes. `keep_freed_memory` raises glibc's thresholds with mallopt(3). On another C library it does
nothing.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

# The names in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 256 * 2**20
LARGEST_ON_HEAP = 32 * 2**20  # the largest value that glibc chooses by itself


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB of freed memory. Returns whether the C library allows it. Runs once per process.

    Thresholds in the environment (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`) are respected.
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
