"""The previews of a training with `generates` mask or pair."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluations.mask_novelty import NoveltyIndex, leave_one_out, nearest_novelty
from evaluations.metrics.near_duplicates import flag_near_duplicates
from evaluations.metrics.nearest import nearest
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.loader import collate_examples
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.visualize import evenly_spaced, to_pixels
from guided_diffusion.diffusion.latent import Code
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import AMP_DTYPES
from guided_diffusion.pipelines.dataset import shown_dataset
from guided_diffusion.pipelines.generation import Generation, GenerationPipeline, TrainedMasks, preview_draw
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.mask_preview import AskedSamples, MaskPreviewer, rows_of_classes, spread_classes

MOST_IMAGES, MOST_MASKS = 1000, 4096
"""Training images and masks, spread over the dataset, that previews are compared with."""


def build_mask_previewer(
    config: TrainConfig,
    report: ScanReport,
    masks: TrainedMasks,
    generation: Generation,
    code: Code,
    model: UNetModel,
    ema: EMA,
    world: ProcessGroup,
    folder: Path,
    say: Callable[[str], None],
) -> MaskPreviewer:
    """Return the previewer; the training images are read when it is first called."""
    names, rules = report.encoding.names, generation.rules
    num_steps = min(config.run.preview_steps, config.diffusion.diffusion_steps)
    dtype = AMP_DTYPES[config.precision.precision]
    sampling = SamplingPipeline(model, config, names, world.device, dtype, None, code)
    shown = rows_of_classes(rules.class_mix, config.run.preview_images)
    measured = spread_classes(rules.class_mix, config.masks.preview_samples, 0.5)
    count = max(len(shown), len(measured))
    seeds = [derive_seed(Stream.SAMPLE, config.run.seed, index) for index in range(count)]
    labels = masks.labels[evenly_spaced(range(len(masks.labels)), MOST_MASKS)]
    pairs = flip_pairs(names, config.source.flip_pairs)

    @cache
    def index() -> NoveltyIndex:
        return NoveltyIndex(labels, len(names), background=rules.background, flip_pairs=pairs)

    @cache
    def own_novelty() -> NDArray[np.floating]:
        return leave_one_out(labels, index())

    return MaskPreviewer(
        draw=preview_draw(GenerationPipeline(sampling, rules), num_steps, max(config.optimizer.batch_size, 8)),
        ema=ema,
        rules=rules,
        class_names=names,
        folder=folder,
        shown=AskedSamples(shown, seeds[: len(shown)]),
        measured=AskedSamples(measured, seeds[: len(measured)]),
        novelty=lambda made: nearest_novelty(made, index()),
        own_novelty=own_novelty,
        copies=share_of_copies(config, report) if generation.code.image_channels else None,
        say=say,
        num_steps=num_steps,
    )


def share_of_copies(config: TrainConfig, report: ScanReport) -> Callable[[Tensor], float]:
    """Return what counts near-duplicates of training images by the rule of `evaluate`, with distances of pixels."""
    pairs = evenly_spaced(report.pairs, MOST_IMAGES)

    @cache
    def training() -> tuple[np.ndarray, dict]:
        shown = shown_dataset(pairs, report.encoding, config.geometry, get_mode(config.source.dataset_mode))
        images = np.stack(to_pixels(collate_examples(shown, range(len(pairs)))[0].numpy()))
        return images, nearest(images, images, leave_one_out=True)

    def share(made: Tensor) -> float:
        images, among_themselves = training()
        near = nearest(np.stack(to_pixels(made.numpy())), images)
        return flag_near_duplicates(near, among_themselves, near).share

    return share
