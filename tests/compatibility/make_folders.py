"""Makes the archive of folders as the code at hand leaves them, and records what it makes of them when it goes on.

    PYTHONPATH=<tree> python tests/compatibility/make_folders.py

Only of use at the commit that the files are named after. Weights and optimizer state are rewritten before anything is
made from them, so that the archive stays small: it holds what the code wrote, with other numbers.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import multiprocessing
import os
import signal
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from folders import (
    ARCHIVE,
    CONTINUED,
    DATA,
    EVALUATION,
    FINETUNE,
    FINETUNED,
    FINISHED,
    INTERRUPTED,
    SAMPLE,
    STEPS,
    UNFINISHED,
    unpack_folders,
)
from PIL import Image
from recording import machine
from running import isdm, make_dataset, one_thread, run_command

from guided_diffusion import cli

TRAIN = {
    "data_dir": str(DATA),
    "dataset_mode": "multi-class",
    "image_size": 16,
    "num_channels": 32,
    "channel_mult": [1],
    "num_res_blocks": 1,
    "attention_resolutions": [16],
    "diffusion_steps": 50,
    "batch_size": 3,
    "lr": 1e-3,
    "drop_rate": 0.2,
    "ema_rate": [0.5],
    "max_epochs": 4,
    "preview_interval": 0,
    "tensorboard": False,
    "device": "cpu",
    "seed": 11,
}
EVALUATE = {
    "data_dir": str(DATA),
    "synthetic_dir": str(FINISHED),
    "output_dir": str(EVALUATION),
    "image_size": 32,
    "architectures": "linknet",
    "encoder": "tu-lcnet_035",
    "encoder_weights": "none",
    "ratios": [1],
    "seeds": 1,
    "train_steps": 40,
    "lr": 5e-3,
    "batch_size": 4,
    "inception_weights": "none",
    "lpips_weights": "none",
    "report_images": 2,
    "device": "cpu",
    "seed": 14,
}
STOP_AFTER = 4
"""Optimizer steps before the signal; the run stops after the next one, in the middle of its second epoch of three."""
SAVES = 12
"""Pictures written before sampling is killed: the sixth mask is still called by its temporary name then."""
PERIOD = 61
"""Prime, so that the rows of a rewritten matrix are different shifts of the same values."""


def repeated(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape that repeats the first values of this one, in few digits."""
    if not tensor.is_floating_point():
        return tensor
    values = tensor.flatten()[:PERIOD]
    times = -(-tensor.numel() // PERIOD)
    return values.repeat(times)[: tensor.numel()].bfloat16().to(tensor.dtype).reshape(tensor.shape)


def coarse(tensor: torch.Tensor, levels: int = 7) -> torch.Tensor:
    """Return this tensor in steps of its largest value, `levels` on each side of 0; small tensors as they are."""
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    step = (tensor.abs().max() / levels).bfloat16().to(tensor.dtype)
    return (tensor / step).round() * step


def rewrite(path: Path, change: Any) -> None:
    """Replace all tensors in a checkpoint by what `change` makes of them."""

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value.detach())
        if isinstance(value, dict):
            return {key: walk(each) for key, each in value.items()}
        return value

    torch.save(walk(torch.load(path, weights_only=True)), path)


@contextlib.contextmanager
def interrupted_after(steps: int) -> Iterator[None]:
    """Send this process SIGINT, as Ctrl-C does, in the optimizer step of that number."""
    original, done = torch.optim.AdamW.step, 0

    def step(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal done
        done += 1
        if done == steps:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments, **keywords)

    with mock.patch.object(torch.optim.AdamW, "step", step):
        yield


def sample_until_killed(values: dict[str, Any], saves: int) -> None:
    """Sample in a process of its own that is killed after it has written so many pictures."""
    process = multiprocessing.get_context("spawn").Process(target=_sample_and_die, args=(values, saves))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def _sample_and_die(values: dict[str, Any], saves: int) -> None:
    original, done = Image.Image.save, 0

    def save(self: Image.Image, *arguments: Any, **keywords: Any) -> None:
        nonlocal done
        original(self, *arguments, **keywords)
        done += 1
        if done == saves:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    Image.Image.save = save
    isdm("sample", **values)


def make_folders() -> None:
    """Make all folders in the working directory, each from the rewritten ones before it."""
    make_dataset(DATA, train=8, test=4, height=16, width=20)
    with interrupted_after(STOP_AFTER):
        code, shown = run_command("train", **TRAIN, output_dir=str(INTERRUPTED))
    assert code == 128 + signal.SIGINT, shown
    for name in ("last.pt", "best.pt"):
        rewrite(INTERRUPTED / name, repeated)
    isdm("finetune", **FINETUNE, output_dir=str(FINETUNED))
    for name in ("last.pt", "best.pt"):
        rewrite(FINETUNED / name, repeated)
    isdm("sample", **SAMPLE, results_path=str(FINISHED), split="train", data_split="train", num_samples=9)
    # Two are finished by a first command, and three and a half by the one that is killed.
    unfinished = {**SAMPLE, "results_path": str(UNFINISHED), "sampler": "ddim", "augment_masks": True}
    isdm("sample", **unfinished, num_samples=2)
    sample_until_killed({**unfinished, "num_samples": 9}, SAVES)
    isdm("evaluate", **EVALUATE)
    for path in (EVALUATION / "study").glob("*.pt"):
        rewrite(path, coarse)


def pack_folders(folder: Path) -> None:
    """Write everything below `folder` into the archive, without owners and times."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    # A window that spans all checkpoints, as they repeat each other.
    window = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**27}]
    with lzma.open(ARCHIVE, "wb", filters=window) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=anonymous)


def in_folder_of_its_own(work: Any) -> Any:
    """Call `work` with a fresh working directory, and return what it returns."""
    with tempfile.TemporaryDirectory(prefix="folders-") as temporary, contextlib.chdir(temporary), one_thread():
        return work()


def make_archive() -> None:
    """Make the folders and pack them."""
    make_folders()
    pack_folders(Path.cwd())


def main() -> int:
    """Write the archive, and beside it what comes out of each step on a fresh copy of it."""
    print(f"running the library in {Path(cli.__file__).parents[1]}")
    in_folder_of_its_own(make_archive)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size} bytes")
    found: dict[str, Any] = {"machine": machine()}
    for name, step in STEPS.items():

        def from_archive(step: Any = step) -> Any:
            unpack_folders(Path.cwd())
            return step()

        found[name] = in_folder_of_its_own(from_archive)
    CONTINUED.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{CONTINUED}: {CONTINUED.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
