from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guided_diffusion.runtime.memory import peak_memory_gib

CHILD = "import torch; from guided_diffusion.runtime.memory import peak_memory_gib as p; print(p(torch.device('cpu')))"
PARENT = f"""
import subprocess, sys
held = b"x" * 2**30
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_peak_memory_is_not_that_of_the_process_which_started_this_one():
    root = Path(__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", PARENT], cwd=root, capture_output=True, text=True, check=True)
    assert 0.05 < float(shown.stdout) < 0.9


@pytest.mark.slow
def test_peak_memory_holds_what_was_freed():
    before = peak_memory_gib(torch.device("cpu"))
    torch.ones(2**28)
    assert peak_memory_gib(torch.device("cpu")) >= before
    assert peak_memory_gib(torch.device("cpu")) > 1
