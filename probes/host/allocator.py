"""The C library's allocator: keep what was freed for the next tensor of its size.

By default glibc maps every large block anew and hands it back when it is freed, so that the kernel clears each page
of every tensor of logits. A third of a preflight on the CPU was spent there.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc to serve large blocks from its heap, and to keep what is freed there; False where there is none.

    For a process of our own: what it frees is given back when it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
