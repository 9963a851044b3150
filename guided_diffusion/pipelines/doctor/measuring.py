"""Time and memory of real training steps and sampling steps."""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch
from torch import Tensor

from guided_diffusion.data.loader import TrainBatch
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.training.trainer import Trainer

SAMPLED_STEPS = 4
"""Sampling steps that are timed, the first of which is left out."""


class PeakMemory:
    """The most memory in bytes while the block runs: of the GPU, or of this process on a CPU; a context manager.

    On a CPU a thread looks every few milliseconds, as the system keeps only the peak since the process began.
    """

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._ended = threading.Event()
        self._process = psutil.Process()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._ended.wait(0.005):
                return

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self._ended.set()
        self._watch.join()
        self.bytes = max(self.bytes, self._process.memory_info().rss)


@contextlib.contextmanager
def quietly() -> Iterator[io.StringIO]:
    """Keep what is printed while the block runs, progress bars too, off the screen; yield what goes to stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()):
        yield output


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def endless_batches(trainer: Trainer) -> Iterator[TrainBatch]:
    """Yield the batches of one epoch after another."""
    for epoch in itertools.count():
        yield from trainer.loader.epoch(epoch)


def take_step(trainer: Trainer, batch: TrainBatch) -> None:
    """Take a training step on a batch as if it were the first one, so that no epoch ends."""
    trainer.progress.batch = 0
    trainer.train_step(batch)


def of_size(batch: TrainBatch, count: int) -> TrainBatch:
    """Return a batch of `count` images, those of `batch` repeated or left out."""
    own = torch.arange(count) % len(batch)

    def chosen(values: Any) -> Any:
        if values is None:
            return None
        return values[own.to(values.device) if isinstance(values, Tensor) else own.to(batch.image.device)]

    return TrainBatch(
        image=chosen(batch.image),
        condition=chosen(batch.condition),
        batch_index=torch.arange(count),
        weight=torch.ones(count),
        global_size=count,
        prepared=chosen(batch.prepared),
        inside=chosen(batch.inside),
        hole=chosen(batch.hole),
        augment=chosen(batch.augment),
        label=chosen(batch.label),
    )


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes until the device has done it."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def sampling_seconds(pipeline: SamplingPipeline, condition: Any) -> float:
    """Return the seconds of one sampling step of a batch of conditions without guidance, the median of a few."""
    ticks: list[float] = []

    def tick(done: int, total: int) -> None:
        wait_for(pipeline.device)
        ticks.append(time.perf_counter())

    run = pipeline.begin(SamplerOptions(sampler="dpm++2m", steps=SAMPLED_STEPS))
    run(condition, range(len(condition)), progress=tick)
    return statistics.median(after - before for before, after in itertools.pairwise(ticks))
