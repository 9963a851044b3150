"""What a machine has: versions, processors, graphics cards, a disk, a browser, and packages that are missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import time
import webbrowser
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from guided_diffusion import __version__
from guided_diffusion.pipelines.doctor.page import Part
from guided_diffusion.runtime.launcher import launched_as
from guided_diffusion.runtime.logs import library_versions
from guided_diffusion.runtime.memory import available_memory
from guided_diffusion.runtime.nvidia import driver_version, unused_gpu
from guided_diffusion.runtime.units import size_in_words

LIBRARIES = (
    "torch", "torchvision", "numpy", "pillow", "pydantic", "scipy", "safetensors", "psutil", "filelock", "jinja2",
    "matplotlib", "timm", "segmentation-models-pytorch", "huggingface-hub", "torch-fidelity", "lpips", "blobfile",
    "tqdm", "defusedxml", "pyyaml", "starlette", "uvicorn",
)  # fmt: skip
SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "HF_HUB_OFFLINE", "PYTORCH_ENABLE_MPS_FALLBACK",
)  # fmt: skip
"""Variables of the environment that change speed or results."""
DISK_BYTES = 64 * 2**20
_CHUNK = 2**20


class Extra(NamedTuple):
    """A package that is not needed, what it is for, and how it is installed."""

    package: str
    purpose: str
    command: str


EXTRAS = (
    Extra("tensorboard", "curves of a training", "pip install tensorboard"),
    Extra("mlflow-skinny", 'trackers "mlflow"', "pip install mlflow-skinny"),
    Extra("wandb", 'trackers "wandb"', "pip install wandb"),
    Extra("faster-coco-eval", "box AP in evaluate", "pip install faster-coco-eval"),
    Extra("mpi4py", "processes started by mpiexec", "pip install mpi4py mpich"),
    Extra("monai", "scripts/benchmark", "pip install monai einops"),
    Extra("einops", "scripts/benchmark", "pip install monai einops"),
    Extra("pytest", "the tests", 'pip install -e ".[test]"'),
)


def versions() -> Part:
    """Return the part on versions of this program, Python, the system and the libraries."""
    found = {"isdm": f"{__version__}{_commit()}", **library_versions(LIBRARIES)}
    build = [f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"]
    if torch.version.cuda and torch.backends.cudnn.is_available():
        build.append(f"cuDNN {torch.backends.cudnn.version()}")
    if torch.version.hip:
        build.append(f"ROCm {torch.version.hip}")
    build.append("oneDNN" if torch.backends.mkldnn.is_available() else "no oneDNN")
    found["torch"] += f" ({', '.join(build)})"
    found |= {name: os.environ[name] for name in SETTINGS if name in os.environ}
    return Part("Versions", ("what", "version"), tuple(found.items()), record=found)


def _commit() -> str:
    """Return the commit of a checkout in parentheses, "" where this is none, or git is missing."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({told})" if told else ""


# ------------------------------------------------------------------------------------------------- devices


def devices() -> Part:
    """Return the part on processors, memory and graphics cards."""
    cpu, rows, notes = _processor(), [], []
    cores = f"{cpu['cores']} cores" if cpu["cores"] else "cores unknown"
    usable = f"{cpu['usable']} of {cpu['threads']} hardware threads usable"
    quota = f", container limit of {cpu['quota']:g}" if cpu["quota"] else ""
    load = "" if cpu["load"] is None else f", load {cpu['load']:.1f}"
    shown = f"{cores}, {usable}{quota}, PyTorch uses {cpu['torch_threads']}{load}"
    rows.append(
        (
            "CPU",
            cpu["model"],
            shown,
            f"{size_in_words(cpu['memory'])} available of {size_in_words(cpu['memory_total'])}",
        )
    )
    if cpu["load"] is not None and cpu["load"] > 1.5 * (cpu["quota"] or cpu["usable"]):
        notes.append(f"other work keeps this machine busy (load {cpu['load']:.1f}): times below are longer than alone")
    cards = [_card(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    driver = driver_version()
    for index, card in enumerate(cards):
        if "error" in card:
            rows.append((f"cuda:{index}", "cannot be read", card["error"], ""))
            continue
        shown = f"compute capability {card['capability']}, {card['processors']} multiprocessors"
        shown += f", driver {driver}" if driver else ""
        rows.append(
            (
                f"cuda:{index}",
                card["name"],
                shown,
                f"{size_in_words(card['free'])} free of {size_in_words(card['memory'])}",
            )
        )
    if torch.backends.mps.is_available():
        rows.append(("mps", platform.processor() or "Apple GPU", f"macOS {platform.mac_ver()[0]}", "that of the CPU"))
    if line := unused_gpu():
        notes.append(line)
    record = {"cpu": cpu, "cuda": cards, "driver": driver, "mps": torch.backends.mps.is_available()}
    return Part("Devices", ("device", "model", "what it has", "memory"), tuple(rows), tuple(notes), record)


def _processor() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "model": f"{_model()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "usable": usable,
        "quota": _quota(),
        "torch_threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory": available_memory(),
        "memory_total": psutil.virtual_memory().total,
    }


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _quota() -> float | None:
    """Return how many processors a container may use, None for all of them."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((Path("/sys/fs/cgroup") / name).read_text() for name in files).split()
            quota, period = float(words[0]), float(words[1])  # "max" and -1: no limit
        except (OSError, ValueError, IndexError):
            continue
        return quota / period if quota > 0 else None
    return None


def _card(index: int) -> dict[str, Any]:
    try:
        found = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # broken, or in exclusive use
        return {"error": str(error).partition("\n")[0]}
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count,
        "memory": total,
        "free": free,
    }


# ------------------------------------------------------------------------------------------------- the rest


def surroundings(output_dir: str) -> Part:
    """Return the part on disk and browser. The disk is that of `output_dir`, or of temporary files."""
    folder = Path(output_dir or tempfile.gettempdir()).absolute()
    folder = next(path for path in (folder, *folder.parents) if path.is_dir())
    name = "disk of output_dir" if output_dir else "disk of temporary files"
    notes, failed, disk = [], [], None
    try:
        disk = disk_speed(folder)
        read = f"read {disk['read']:.0f} MB/s{'' if disk['uncached'] else ' (from the cache of the system)'}"
        shown = f"write {disk['write']:.0f} MB/s, {read}, {size_in_words(disk['free'])} free"
    except OSError as error:
        shown = f"cannot be written ({error.strerror})"
        failed.append(f"{name}: {shown}: choose another output_dir" if output_dir else f"{name}: {shown}: set TMPDIR")
    if disk and disk["free"] < 10 * 2**30:
        notes.append(f"{name}: less than 10 GiB free; checkpoints of large networks have 1 to 8 GiB each")
    browser = _browser()
    rows = ((name, shown), ("browser for report.html", browser or "none here: open reports on another computer"))
    record = {"disk": disk, "browser": browser}
    return Part("Disk and browser", ("what", "found"), rows, tuple(notes), record, tuple(failed))


def disk_speed(folder: Path, size: int = DISK_BYTES) -> dict[str, Any]:
    """Return MB/s of writing `size` bytes with fsync and of reading them, and the free bytes; OSError if it cannot.

    uncached: the system was asked to forget what was written, so that it is read from the disk.
    """
    chunk = os.urandom(_CHUNK)  # some disks compress
    with tempfile.TemporaryFile(dir=folder, prefix=".isdm-doctor-", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(size // _CHUNK):
            file.write(chunk)
        os.fsync(file.fileno())
        written = time.perf_counter() - started
        uncached = hasattr(os, "posix_fadvise")
        if uncached:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        started = time.perf_counter()
        while file.read(_CHUNK):
            pass
        read = time.perf_counter() - started
    free = shutil.disk_usage(folder).free
    return {"write": size / written / 1e6, "read": size / read / 1e6, "uncached": uncached, "free": free}


def _browser() -> str:
    if launched_as()[1] > 1:
        return ""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return ""
    return getattr(found, "name", "") or type(found).__name__


def extras() -> Part:
    """Return the part on packages that are not needed and not there."""
    missing = [extra for extra in EXTRAS if not _is_installed(extra.package)]
    rows = tuple(extra for extra in missing)
    notes = () if missing else ("every optional package is installed",)
    return Part(
        "Missing extras", ("package", "what it is for", "how to get it"), rows, notes, [e._asdict() for e in missing]
    )


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
