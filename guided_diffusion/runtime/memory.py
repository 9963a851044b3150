"""Available memory, peak memory, and an allocator that keeps freed memory."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import psutil
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h> of glibc
LARGEST = 2**31 - 1
MAPPED_ABOVE = 2**30
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where a container's limit stands, in versions 2 and 1 of control groups: folder, limit, used, cached files."""


def keep_freed_memory() -> bool:
    """Have glibc reuse large freed blocks instead of returning them to the system; return whether it will.

    By default it maps blocks above 32 MiB anew (features at 128 px are such), and the system clears each page, which
    takes time in every layer. The price: the process keeps its peak size. No effect on Windows, macOS, musl.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED_ABOVE) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory used so far in GiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    # Elsewhere psutil has no peak. On Linux, getrusage includes the size of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(peak[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )  # bytes on macOS, else kilobytes


def available_memory() -> int:
    """Return the available main memory in bytes, within the limit of a container, which psutil does not know."""
    available = psutil.virtual_memory().available
    for folder, limit, used, cached in _CGROUPS:
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        # Files that the kernel caches count as used, but can be dropped.
        return min(available, max(0, most - now + int(stat.get(cached, 0))))
    return available
