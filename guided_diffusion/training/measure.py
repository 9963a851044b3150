"""What a run costs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch


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
