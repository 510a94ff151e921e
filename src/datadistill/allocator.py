"""Tell glibc to keep freed memory instead of handing it back and faulting it in again.

A training step on a CPU allocates and frees the same few large tensors thousands of times. By default glibc maps each one
afresh, and the kernel zeroes its pages at first touch: a third to a half of a step's CPU time (docs/performance.md).
The command line calls `tune` at start; a program that imports the package decides for itself.
"""

from __future__ import annotations

import ctypes
import os
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>


def tune() -> bool:
    """Serve allocations up to 256 MiB from the heap and keep up to 2 GiB of freed heap. Whether it was done: glibc only, never
    against the user's own MALLOC_* or GLIBC_TUNABLES, and not with DATADISTILL_MALLOC=off. Results do not change.
    """
    if os.environ.get("DATADISTILL_MALLOC", "").lower() == "off" or platform.libc_ver()[0] != "glibc":
        return False
    if "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    done = mallopt(MMAP_THRESHOLD, 256 << 20) or mallopt(MMAP_THRESHOLD, 32 << 20)  # an older glibc takes no more than 32 MiB
    return bool(done and mallopt(TRIM_THRESHOLD, (1 << 31) - 1) and mallopt(TOP_PAD, 64 << 20))
