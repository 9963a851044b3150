"""The C library's memory allocator, told to keep what is freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h> of glibc
LARGEST = 2**31 - 1
MAPPED_ABOVE = 2**30


def keep_freed_memory() -> bool:
    """Have glibc reuse large freed blocks instead of returning them to the system; return whether it will.

    By default it maps every block of more than 32 MiB anew, and the system clears each page at first touch. The
    features of a 128 px network are such blocks, and clearing them takes time in every layer. The price is that the
    process stays as large as it once was. Elsewhere (Windows, macOS, musl) nothing is done.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED_ABOVE) and mallopt(M_TRIM_THRESHOLD, LARGEST))
