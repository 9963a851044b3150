"""GPUs of NVIDIA that are there, and that this PyTorch cannot use."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import torch


@cache
def driver_version() -> str:
    """Return the version of the NVIDIA driver, "" where there is none or no GPU for it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return ""
    return told[0] if told else ""


def unused_gpu() -> str:
    """Return what keeps PyTorch from the GPU of an NVIDIA driver, and what to do; "" where nothing does."""
    if torch.cuda.is_available() or not (driver := driver_version()):
        return ""
    why = "is built without CUDA" if torch.version.cuda is None else "cannot use it"
    found = f"there is an NVIDIA driver ({driver}), but this PyTorch ({torch.__version__}) {why}"
    return f"{found}: install it as pytorch.org says, or look at CUDA_VISIBLE_DEVICES"


@cache
def warn_of_unused_gpu() -> None:
    """Print a warning, once, if "auto" takes the CPU although there is a GPU, unless CUDA_VISIBLE_DEVICES hides it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and (line := unused_gpu()):
        print(f"warning: device is auto, so the CPU is used: {line}", file=sys.stderr)
