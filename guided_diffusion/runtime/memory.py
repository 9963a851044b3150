"""Memory: how much there is, how much was used, and an allocator that keeps what is freed."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h> of glibc
LARGEST = 2**31 - 1
MAPPED_ABOVE = 2**30
_UNKNOWN_MEMORY = 4 * 2**30  # bytes taken as available where the system does not say


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


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory used so far in GiB: of the GPU, or of this process on a CPU; 0 where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: what that reports begins with the size of the process that started this one.
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def available_memory() -> int:
    """Return the bytes of main memory that can be had, or 4 GiB where the system does not say (Windows)."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        if not found:
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, AttributeError):
        found.append(_UNKNOWN_MEMORY)
    try:  # the limit of a container
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Files that the kernel keeps in memory count as used, but give way.
        found.append(max(0, limit - used + int(stat.get("inactive_file", 0))))
    except (OSError, ValueError):
        pass
    return min(found)
