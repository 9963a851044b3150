"""A GPU of NVIDIA that this PyTorch cannot use."""

from __future__ import annotations

import os

import pytest
import torch

from guided_diffusion.runtime.distributed import choose_device, init_distributed
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.nvidia import driver_version, warn_of_unused_gpu

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="needs a PyTorch without a GPU"),
    pytest.mark.skipif(os.name == "nt", reason="needs a shell script as a program"),
]


@pytest.fixture(autouse=True)
def _driver(tmp_path, monkeypatch):
    """Put the program of a driver on the PATH."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 535.161.08\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    caches = (driver_version, warn_of_unused_gpu)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


def test_auto_says_once_that_the_cpu_is_used(capsys):
    for _ in range(2):
        init_distributed("auto").close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: device is auto")
    assert "535.161.08" in line


@pytest.mark.parametrize(("device", "hidden"), [("cpu", None), ("auto", ""), ("auto", "-1")])
def test_who_wants_the_cpu_hears_nothing(device, hidden, capsys, monkeypatch):
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    init_distributed(device).close()
    assert capsys.readouterr().err == ""


def test_who_wants_the_gpu_hears_what_keeps_it():
    with pytest.raises(UserError, match=r"^device: .*535\.161\.08.*pytorch\.org"):
        choose_device("cuda")
