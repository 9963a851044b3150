"""What works on a device: autocast, torch.compile, MPI; each tried by a process of its own, within a time limit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from guided_diffusion.models.compilation import COMPILERS, has_python_headers
from guided_diffusion.pipelines.doctor import trial
from guided_diffusion.pipelines.doctor.page import Part
from guided_diffusion.runtime.launcher import launched_as

TRIAL_SECONDS = 45
"""Until a process that tries something is ended."""
_OF_LAUNCHERS = ("PMI", "OMPI_", "MPI_", "HYDRA_", "MPIEXEC_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_")


class Ability(NamedTuple):
    """Whether something works, None where there was no time to see it, and how it went."""

    works: bool | None
    detail: str


def try_out(names: Sequence[str], device: str, *, seconds: float) -> dict[str, Ability]:
    """Return whether each of `names` (keys of `trial.TRIALS`) works on `device`.

    They are tried by one process, one after the other, which is ended after `seconds`.
    """
    arguments = [word for name in names for word in (name, device)]
    # A process of a job would be taken for one more of it.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_OF_LAUNCHERS)}
    with tempfile.TemporaryDirectory(prefix="isdm-doctor-", ignore_cleanup_errors=True) as folder:
        environment |= {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder}  # so that it is compiled anew
        command = [sys.executable, "-P", trial.__file__, *arguments]
        found: dict[str, Ability] = {}
        works: bool | None = False
        try:
            ended = subprocess.run(
                command, capture_output=True, env=environment, timeout=seconds, check=False, stdin=subprocess.DEVNULL
            )
            output, reason = ended.stdout, f"its process ended with code {ended.returncode}"
        except subprocess.TimeoutExpired as error:
            works, output, reason = None, error.stdout or b"", f"not done after {seconds:g} s"
        except OSError as error:
            output, reason = b"", f"no process can be started ({error.strerror})"
    for line in output.decode(errors="replace").splitlines():
        if line.startswith('{"name"'):
            told = json.loads(line)
            found[told["name"]] = Ability(told["works"], told["detail"])
    return {name: found.get(name, Ability(works, reason)) for name in names}


def abilities(device: torch.device) -> Part:
    """Return the part on bf16, fp16, torch.compile and MPI."""
    found = try_out(["bf16", "fp16", "compile"], str(device), seconds=TRIAL_SECONDS)
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    headers = has_python_headers()
    tools = f"C++ compiler {Path(compiler).name if compiler else 'not found'}, Triton {_version('triton')}, "
    tools += f"Python.h {'found' if headers else 'not found (python3-dev)'}"
    labels = {"bf16": "autocast bf16", "fp16": "autocast fp16", "compile": "torch.compile"}
    rows = [(labels[name], _yes(each.works), each.detail) for name, each in found.items()]
    rows[-1] = (*rows[-1][:2], f"{rows[-1][2]}; {tools}")
    _, processes, _ = launched_as()
    found["mpi"] = Ability(False, "no mpi4py")
    if _version("mpi4py") != "not found":
        found |= try_out(["mpi"], "cpu", seconds=TRIAL_SECONDS)
    started = f"started as one of {processes} processes" if processes > 1 else "not started by mpiexec or torchrun"
    rows.append(("MPI", _yes(found["mpi"].works), f"{found['mpi'].detail}; {started}"))
    record = {name: each._asdict() for name, each in found.items()}
    record |= {
        "compiler": compiler and Path(compiler).name,
        "triton": _version("triton"),
        "headers": headers,
        "processes": processes,
    }
    return Part(f"What works on {device}", ("what", "works", "how"), tuple(rows), record=record)


def _yes(works: bool | None) -> str:
    return "not known" if works is None else "yes" if works else "no"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not found"
