"""Pairs that are accepted, also by a process that is killed meanwhile."""

from __future__ import annotations

import builtins
import io
import os
import signal
from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.samples.accepted_folder import AcceptedFolder, AcceptedPair
from guided_diffusion.samples.manifest import SampleSettings

ENCODING = LabelEncoding.identity(3)


def pair(number: int = 0) -> AcceptedPair:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)).save(content, format="PNG")
    label = np.full((32, 32), number % 3, np.uint8)
    settings = SampleSettings(run_seed=number, sampler="ddim", steps=number + 1, s=1.0)
    return AcceptedPair(content.getvalue(), label, settings, number, 0, None, "", True, None)


def opened(root: Path) -> AcceptedFolder:
    folder = AcceptedFolder(root, "train", ENCODING)
    folder.begin()
    return folder


def killed_at(root: Path, call: str, count: int) -> None:
    """Accept a pair in a process that is killed at a call of the system."""
    folder = opened(root)
    module, name = (os, "replace") if call == "replace" else (builtins, "open")
    original, calls = getattr(module, name), 0

    def killing(*arguments, **options):
        nonlocal calls
        if call == "replace" or "manifest.jsonl" in str(arguments[0]):
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
        return original(*arguments, **options)

    setattr(module, name, killing)
    folder.accept(pair(1))


def accepting(root: Path) -> None:
    """Accept and discard pairs until the process is killed."""
    os.fsync = lambda descriptor: None  # as in conftest.py
    folder = opened(root)
    for number in range(10_000):
        folder.accept(pair(number))
        if number % 5 == 4:
            folder.discard(folder.names[0])
