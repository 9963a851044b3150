"""How long steps of training and sampling take here, for three sizes of network and image."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from guided_diffusion.config.load import load_config
from guided_diffusion.data.lemons import write_demo_dataset
from guided_diffusion.pipelines.doctor.measuring import (
    PeakMemory,
    endless_batches,
    quietly,
    sampling_seconds,
    take_step,
    timed,
)
from guided_diffusion.pipelines.doctor.page import Part
from guided_diffusion.pipelines.resume import ResumePlan
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.pipelines.training import build_trainer
from guided_diffusion.pipelines.training_data import open_training_data
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.runtime.units import size_in_words

STEPS = 3  # that are timed, after one that is not
DEFAULT_STEPS = 20  # of the default sampler


class Size(NamedTuple):
    """A network and its images."""

    side: int
    channels: int
    batch: int


SIZES_OF_CPU = (Size(32, 32, 2), Size(64, 32, 2), Size(64, 64, 2))
SIZES = (Size(64, 64, 8), Size(128, 64, 8), Size(256, 128, 8))


def step_times(
    device: torch.device, folder: Path, *, deadline: float, report: Callable[[], None] = lambda: None
) -> Part:
    """Return the part with a row for each size. folder: for a small dataset, which is written there.

    deadline: of time.monotonic(); sizes that would probably not be done by then are left out.
    """
    data = folder / "lemons"
    write_demo_dataset(data, num_train=8, num_test=1, size=64)
    rows, record, left_out, took = [], [], [], 0.0
    for size in SIZES_OF_CPU if device.type == "cpu" else SIZES:
        started, name = time.monotonic(), f"{size.side} px with {size.channels} channels"
        if started + 3 * took > deadline:
            left_out.append(name)
            continue
        try:
            measured = _measured(size, device, data, folder / "run")
        except RuntimeError as error:
            left_out.append(f"{name} ({str(error).partition(chr(10))[0]})")
            continue
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            report()
        took = time.monotonic() - started
        record.append({**size._asdict(), **measured})
        rows.append(_row(size, measured))
    notes = [f"fp32, not compiled, median of {STEPS} steps; sampling without guidance, {DEFAULT_STEPS} steps an image"]
    if left_out:
        notes.append(f"left out, for lack of time or memory: {', '.join(left_out)}")
    head = ("image", "num_channels", "parameters", "batch", "training", "sampling", "peak memory")
    return Part(f"Step times on {device}", head, tuple(rows), tuple(notes), record)


def _row(size: Size, measured: dict[str, Any]) -> tuple[str, ...]:
    training, sampling = measured["training_seconds"], measured["sampling_seconds"]
    return (
        f"{size.side} px",
        f"{size.channels}",
        f"{measured['parameters'] / 1e6:.1f} M",
        f"{size.batch}",
        f"{training:.3g} s a step, {size.batch / training:.3g} images/s",
        f"{sampling:.3g} s a step, {size.batch / (DEFAULT_STEPS * sampling):.3g} images/s",
        size_in_words(measured["peak_memory"]),
    )


def _measured(size: Size, device: torch.device, data: Path, run: Path) -> dict[str, Any]:
    """Return parameters, median seconds of a training and a sampling step, and bytes of memory at the peak."""
    config = load_config(
        "train",
        {
            "data_dir": str(data),
            "dataset_mode": "multi-class",
            "output_dir": str(run),
            "image_size": size.side,
            "num_channels": size.channels,
            "batch_size": size.batch,
            "num_workers": 0,
            "compile": False,
            "preview_interval": 0,
            "trackers": [],
        },
    )
    world = ProcessGroup(0, 1, device)
    with quietly(), PeakMemory(device) as memory:
        report = open_training_data(config)
        config = config.replaced(num_classes=report.encoding.num_classes)
        trainer = build_trainer(config, ResumePlan(), world, report, RunLog(run, enabled=False))
        batches = endless_batches(trainer)
        times = [timed(partial(take_step, trainer, next(batches)), device) for _ in range(1 + STEPS)]
        trainer.model.eval()
        pipeline = SamplingPipeline(trainer.model, config, report.encoding.names, device, None, None)
        sampling = sampling_seconds(pipeline, next(batches).condition)
    return {
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        "training_seconds": statistics.median(times[1:]),
        "sampling_seconds": sampling,
        "peak_memory": memory.bytes,
    }
