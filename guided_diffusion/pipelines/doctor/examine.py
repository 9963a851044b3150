"""One examination from start to end: what is measured, in which order, and the page of it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import torch
from tqdm import tqdm

from guided_diffusion.config.doctor import DoctorConfig
from guided_diffusion.pipelines.doctor import machine
from guided_diffusion.pipelines.doctor.abilities import abilities
from guided_diffusion.pipelines.doctor.fitting import fitting
from guided_diffusion.pipelines.doctor.page import Part, page, record
from guided_diffusion.pipelines.doctor.self_test import self_test, things
from guided_diffusion.pipelines.doctor.step_times import SIZES, step_times
from guided_diffusion.runtime.files import write_text

PAGE, RECORD = "doctor.md", "doctor.json"


def examine(config: DoctorConfig, device: torch.device) -> list[Part]:
    """Return the parts of the page; files that are needed on the way lie in a temporary folder until then."""
    deadline = time.monotonic() + config.time_limit
    parts: list[Part] = []
    prefix = "isdm-doctor-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name, _bar(config) as bar:
        folder = Path(name)

        def add(what: str, make: Callable[[], Part], counts: int = 1) -> None:
            bar.set_description(what)
            parts.append(make())
            bar.update(counts)

        add("versions", machine.versions)
        add("devices", machine.devices)
        add("disk", lambda: machine.surroundings(config.output_dir))
        parts.append(machine.extras())
        # Before others take memory, which would count as that of the training.
        if config.train_config:
            add("training", lambda: fitting(config.train_config, device, folder))
        if config.time_limit:
            add(f"what works on {device}", lambda: abilities(device))
            add("self-test", lambda: self_test(device, deadline=deadline, report=bar.update), 0)
            add("step times", lambda: step_times(device, folder, deadline=deadline, report=bar.update), 0)
    return parts


def _bar(config: DoctorConfig) -> tqdm:
    total = 3 + bool(config.train_config) + (1 + len(things()) + len(SIZES) if config.time_limit else 0)
    return tqdm(total=total, unit="part", dynamic_ncols=True, leave=False)


def write_page(parts: list[Part], output_dir: str) -> str:
    """Return the page as Markdown; with `output_dir` it is also written there, beside doctor.json."""
    text = page(f"isdm doctor, {datetime.now().astimezone().isoformat(sep=' ', timespec='minutes')}", parts)
    if output_dir:
        folder = Path(output_dir)
        write_text(folder / PAGE, text)
        write_text(folder / RECORD, json.dumps(record(parts), indent=2) + "\n")
    return text
