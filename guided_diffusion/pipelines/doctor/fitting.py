"""What a training will take here: three real steps of its config, and which batch fits into memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from guided_diffusion.config.load import load_config, read_keys
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.loader import TrainBatch
from guided_diffusion.models.compilation import wants_compiling
from guided_diffusion.pipelines.changed_data import refuse_other_data
from guided_diffusion.pipelines.dataset import with_mode_defaults
from guided_diffusion.pipelines.doctor.measuring import PeakMemory, endless_batches, of_size, quietly, take_step
from guided_diffusion.pipelines.doctor.page import Part
from guided_diffusion.pipelines.generation import refuse_few_pairs
from guided_diffusion.pipelines.resume import find_resume_plan, refuse_other_classes
from guided_diffusion.pipelines.study.progress import duration
from guided_diffusion.pipelines.training import build_trainer
from guided_diffusion.pipelines.training_data import open_training_data
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import ConfigError, lacks_memory
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.runtime.memory import available_memory
from guided_diffusion.runtime.units import size_in_words
from guided_diffusion.training.trainer import Trainer

STEPS = 3
USABLE = 0.9
"""Share of the available main memory that a training may take: the system needs some, too."""
_WARNINGS = 5


def training_config(path: str, run: Path, device: str) -> TrainConfig:
    """Return the config of train in the file `path`, with `run` as its folder and nothing that takes time beside it.

    Raises ConfigError where it is none.
    """
    keys, _ = read_keys("train", path)
    own = {"output_dir": str(run), "device": device, "preview_interval": 0, "trackers": []}
    if (Path(str(keys.get("output_dir", ""))) / LAST).exists():  # the training goes on with that
        own["resume_checkpoint"] = "auto"
    with _naming(path):
        config = load_config("train", {**keys, **own})
    if config.latents.latent is not None:  # its autoencoder only has to be there
        config = config.replaced(autoencoder_steps=1, gate=0.0)
    return with_mode_defaults(config)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say of mistakes in keys that they are those of the config `path`."""
    try:
        yield
    except ConfigError as error:
        lines = [("train_config", f"train_config is {path}: {line}") for line in error.messages]
        raise ConfigError.of_keys(*lines) from error


def fitting(path: str, device: torch.device, folder: Path) -> Part:
    """Return the part on the training of the config `path`. Files of the training go to `folder`.

    Raises UserError where the training could not begin.
    """
    config = training_config(path, folder / "run", str(device))
    compiles = wants_compiling(config.precision.compile, device, label_diffusion=config.label_diffusion.cond_diffuse)
    with _naming(path):
        start = find_resume_plan(config)
    with quietly() as printed:
        report = open_training_data(config)
        refuse_other_classes(report.encoding.names, start)
        refuse_few_pairs(config, report)
        refuse_other_data(config, report, start)
        start = replace(start, continues=False)  # the weights are enough here
        config = config.replaced(num_classes=report.encoding.num_classes)
        world = ProcessGroup(0, 1, device)
        trainer = build_trainer(config, start, world, report, RunLog(folder / "run", enabled=False))
        if start.checkpoint is not None:
            start.checkpoint.forget_tensors()
        trainer.model.train()
        measured = _measured(trainer)
    lines = [_by_keys(line, config) for line in printed.getvalue().splitlines() if line.startswith("warning: ")]
    notes = lines[:_WARNINGS]
    if len(lines) > _WARNINGS:
        notes.append(f"{len(lines) - _WARNINGS} more warnings: see `check`")
    if compiles:
        notes.append(
            "the network was compiled, as in the training; the batches that were tried beside are compiled, too"
        )
    if config.latents.latent is not None:
        notes.append("the time of the autoencoder, which is trained first, is not counted")
    notes.append("previews and checkpoints are not counted; nothing was written into output_dir")
    rows, record = _rows(trainer, measured)
    record |= {"config": Path(path).name, "compiled": compiles}
    title = f"The training of {Path(path).name} on {device}"
    return Part(title, ("what", "found"), tuple(rows), tuple(notes), record)


def _by_keys(line: str, config: TrainConfig) -> str:
    """Return a line with the keys in place of the paths that they name: the page is shown to others."""
    for key in config.fields():
        facts, path = config.facts(key), str(config.get(key) or "")
        if facts.path and len(path) > 1 and (not facts.words or Path(path).exists()):
            line = line.replace(path, key)
    return line


# ------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Measured:
    """seconds: of each timed step, with reading its batch; images: of these steps together; peak: bytes of memory.

    at_once: images computed at a time; asked: as many as the config asks for. fits: what is said of other batches.
    """

    seconds: tuple[float, ...]
    images: int
    peak: int
    at_once: int
    asked: int
    fits: str
    largest: int | None


def _measured(trainer: Trainer) -> Measured:
    batches = endless_batches(trainer)
    first = next(batches)
    micro = trainer.options.microbatch
    asked = min(len(first), micro) if micro > 0 else len(first)
    if trainer.world.device.type == "cpu":
        return _measured_on_cpu(trainer, batches, first, asked)
    return _measured_on_gpu(trainer, batches, first, asked)


def _timed(trainer: Trainer, batches: Iterator[TrainBatch]) -> tuple[tuple[float, ...], int]:
    """Return the seconds of three steps and the number of their images; a step waits for the device by itself."""
    seconds, images = [], 0
    for _ in range(STEPS):
        started = time.perf_counter()
        batch = next(batches)
        take_step(trainer, batch)
        seconds.append(time.perf_counter() - started)
        images += len(batch)
    return tuple(seconds), images


def _measured_on_cpu(trainer: Trainer, batches: Iterator[TrainBatch], first: TrainBatch, asked: int) -> Measured:
    """Measure the batch of the config and one of half its images, if both will probably fit, or beside one image two.

    Memory grows in proportion. The smaller batch comes first: a process keeps memory that it once took.
    """
    device, own = trainer.world.device, trainer.options
    before = psutil.Process().memory_info().rss
    budget = USABLE * available_memory() + before
    if asked == 1:
        with PeakMemory(device) as small:
            seconds, images = _timed(trainer, batches)
        trainer.options = own.model_copy(update={"microbatch": -1})
        with PeakMemory(device) as large:
            take_step(trainer, of_size(first, 2))
        trainer.options = own
        image, peak = large.bytes - small.bytes, small.bytes
    else:
        other = asked // 2
        with PeakMemory(device) as small:
            take_step(trainer, of_size(first, other))
        image = (small.bytes - before) / other
        if before + image * asked > budget:
            needed, there = size_in_words(before + image * asked), size_in_words(budget)
            keys = "set batch_size or microbatch to it"
            fits = f"{asked} would need about {needed}, and {there} are there; {other}: {keys}"
            trainer.options = own.model_copy(update={"microbatch": other})
            seconds, images = _timed(trainer, batches)
            return Measured(seconds, images, small.bytes, other, asked, fits, other)
        with PeakMemory(device) as large:
            seconds, images = _timed(trainer, batches)
        image, peak = (large.bytes - small.bytes) / (asked - other), large.bytes
    most = trainer.loader.batch_plan.num_items
    largest = most if image <= 0 else min(most, int((budget - peak) / image) + asked)
    each = f"{size_in_words(max(0.0, image))} for each image, {size_in_words(budget)} available"
    fits = f"{largest}{' (all images)' if largest == most else ''}: about {each}"
    return Measured(seconds, images, peak, asked, asked, fits, largest)


def _measured_on_gpu(trainer: Trainer, batches: Iterator[TrainBatch], first: TrainBatch, asked: int) -> Measured:
    """Measure the batch of the config, or the largest half of it that fits, then try larger ones."""
    device, own = trainer.world.device, trainer.options
    most = trainer.loader.batch_plan.num_items

    def fits_at_once(count: int) -> bool:
        trainer.options = own.model_copy(update={"microbatch": -1})
        return _fits(trainer, of_size(first, count))

    at_once = asked
    while at_once > 1 and not fits_at_once(at_once):
        at_once //= 2
    if at_once < asked or own.microbatch > 0:
        trainer.options = own.model_copy(update={"microbatch": at_once})
    else:
        trainer.options = own
    if not _fits(trainer, first):
        return Measured(
            (), 0, 0, at_once, asked, "not even one image fits: fewer num_channels, use_checkpoint, bf16", None
        )
    with PeakMemory(device) as memory:
        seconds, images = _timed(trainer, batches)
    if at_once < asked:
        fits = f"{asked} images at a time do not fit, {at_once} do: set batch_size or microbatch to {at_once}"
        return Measured(seconds, images, memory.bytes, at_once, asked, fits, at_once)
    largest, failed = largest_that_fits(asked, most, fits_at_once)
    fits = f"{largest}{' (all images)' if largest == most else ''}, tried by doubling"
    fits += f"; {failed} did not fit" if failed else ""
    return Measured(seconds, images, memory.bytes, asked, asked, fits, largest)


def largest_that_fits(start: int, most: int, fits: Callable[[int], bool]) -> tuple[int, int | None]:
    """Return the largest of `start` (which fits), twice that, ..., and `most` that fits, and the first that does not.

    The latter is None where `most` images fit.
    """
    largest = start
    while largest < most:
        count = min(2 * largest, most)
        if not fits(count):
            return largest, count
        largest = count
    return largest, None


def _fits(trainer: Trainer, batch: TrainBatch) -> bool:
    """Return whether a step has enough memory; what it had taken is free again."""
    try:
        take_step(trainer, batch)
        enough = True
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        enough = False
    # Outside of the block: until then the error holds the tensors of the step.
    trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if trainer.world.device.type == "cuda":
        torch.cuda.empty_cache()
    return enough


# ------------------------------------------------------------------------------------------------- the page


def _rows(trainer: Trainer, measured: Measured) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    options, plan = trainer.options, trainer.loader.batch_plan
    parameters = sum(weight.numel() for weight in trainer.model.parameters())
    weights = 4 * parameters * (1 + len(trainer.ema.averages))
    steps = min(options.max_epochs * plan.num_batches, options.lr_anneal_steps or 10**15)
    record = {
        "examples": plan.num_items,
        "parameters": parameters,
        "steps_an_epoch": plan.num_batches,
        "steps": steps,
        "batch_size": plan.batch_size,
        "at_once": measured.at_once,
        "peak_memory": measured.peak,
        "largest_batch": measured.largest,
        "best_bytes": weights,
        "last_bytes": weights + 8 * parameters,
    }
    rows = [
        ("examples an epoch", f"{plan.num_items}, in {plan.num_batches} steps of batch_size {plan.batch_size}"),
        ("network", f"{parameters / 1e6:.1f} M parameters"),
        ("checkpoints", f"best.pt {size_in_words(weights)}, last.pt {size_in_words(weights + 8 * parameters)}"),
    ]
    if measured.seconds:
        step = statistics.median(measured.seconds)
        rate = measured.images / sum(measured.seconds)
        record |= {"step_seconds": list(measured.seconds), "images_per_second": rate}
        shown = f"{step:.3g} s, {rate:.3g} images/s (median of {STEPS})"
        rows += [
            ("a step", shown),
            ("an epoch", duration(step * plan.num_batches)),
            ("the whole training", f"{steps} steps: {duration(step * steps)}"),
            ("peak memory", size_in_words(measured.peak)),
        ]
    rows.append(("images at a time that fit", measured.fits))
    return rows, record
