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
            try:
                parts.append(make())
            except OSError as error:  # of the temporary folder, as on a full disk; the rest of the page is wanted then
                line = f"{what}: ended by the system ({error.strerror or error}): make room, or set TMPDIR"
                parts.append(Part(f"{what[0].upper()}{what[1:]}", failed=(line,)))
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


def titled(parts: list[Part]) -> str:
    """Return the page as Markdown, with the time of the examination."""
    return page(f"isdm doctor, {datetime.now().astimezone().isoformat(sep=' ', timespec='minutes')}", parts)


def write_page(text: str, parts: list[Part], output_dir: str) -> list[Path]:
    """Write the page and doctor.json into `output_dir`; return their paths. UserError where they cannot be written."""
    folder = Path(output_dir).absolute()
    write_text(folder / PAGE, text)
    write_text(folder / RECORD, json.dumps(record(parts), indent=2) + "\n")
    return [folder / PAGE, folder / RECORD]
