"""The data of a training: scanned, told, and made into examples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.condition_makers import ConditionMaker
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.deep_color import is_gray
from guided_diffusion.data.groups import groups_of
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.mirror import flip_pairs, in_words, without_partner
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import LoaderOptions
from guided_diffusion.data.pairing import GoodImage, Pair, index_images
from guided_diffusion.data.scan.images import scan_images
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.pipelines.dataset import (
    hole_maker,
    leaves_masks_aside,
    plain_transform,
    scan_split,
    scan_unlabeled,
    shared_files,
    window_plan,
    with_good_images,
)
from guided_diffusion.pipelines.layouts import layout_maker, scan_box_split, whole_box_problems
from guided_diffusion.pipelines.pseudo_labels import pseudo_label_lines
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import ConfigError


def open_training_data(config: TrainConfig, processes: int = 1) -> ScanReport:
    """Scan the training split, print its warnings and return it; DataError with a line for every fatal problem."""
    batch_size = config.optimizer.batch_size * processes
    annotated = get_mode(config.source.dataset_mode).boxes is not None
    if leaves_masks_aside(config):
        report = scan_unlabeled(config, batch_size=batch_size)
    else:
        scan = scan_box_split if annotated else scan_split
        report = scan(config.source, config.geometry, "train", batch_size=batch_size)
        report = _with_image_dir(with_good_images(report, config), config)
    encoding = report.raise_if_fatal()
    whole = whole_box_problems(report, config.boxes, get_mode(config.source.dataset_mode))
    lines = problem_lines([*report.warnings, *whole, *shared_files(config.source, report)])
    if not leaves_masks_aside(config) and not annotated:
        lines += pseudo_label_lines(config.source.data_dir, ("train",))
    for line in lines:
        print(f"warning: {line}")
    if not leaves_masks_aside(config):
        _say_what_is_exchanged(config, encoding.names)
    refuse_unmatched_groups(config, (*report.pairs, *report.good_images))
    if config.geometry.resize in ("pad", "window"):
        # The borders are ignored pixels, and samples are written with them, so they need a value.
        report = replace(report, encoding=encoding.with_ignore())
    return report


def refuse_unmatched_groups(config: TrainConfig, entries: Sequence[Pair | GoodImage]) -> None:
    """Raise ConfigError for a `group_pattern` that matches no name, where held-out images are chosen by it."""
    if config.latents.latent is not None:
        groups_of(config.source.group_pattern, [entry.stem for entry in entries])


def refuse_gray_holes(config: TrainConfig, report: ScanReport) -> None:
    """Raise ConfigError for a network of colors that is to fill holes in images which are all gray.

    `place` would refuse it there: its colors cannot be put back into gray files.
    """
    modes = report.image_modes
    if config.model.inpaint and config.geometry.image_channels == 3 and modes and all(map(is_gray, modes)):
        line = "image_channels is 3, but all images are gray, into which place cannot paint with such a network: "
        raise ConfigError.of_keys(("image_channels", f"{line}set it to 1, or save the images as RGB"))


def _say_what_is_exchanged(config: TrainConfig, names: Sequence[str]) -> None:
    pairs = flip_pairs(names, config.source.flip_pairs)
    flips = [key for key in ("random_flip", "vertical_flip") if getattr(config.augment, key)]
    if pairs and flips:
        print(
            f"warning: {' and '.join(flips)}: mirrored examples have these classes exchanged: "
            f"{in_words(names, pairs)}; set flip_pairs to [] if left and right are sides of the image"
        )
    if flips and config.source.flip_pairs is None and (alone := without_partner(names, pairs)):
        print(
            f"warning: {' and '.join(flips)}: mirrored examples show these classes on the other side, under the same "
            f"name: {', '.join(map(repr, alone))}; set flip_pairs to the pairs that change places, or to [] if none do"
        )


def _with_image_dir(report: ScanReport, config: TrainConfig) -> ScanReport:
    """Return the scan of pairs with the images of `image_dir` after the good ones: they have no defects to lie on."""
    if not config.good.image_dir:
        return report
    geometry = config.geometry
    beside = scan_images(
        *index_images("", get_mode(config.source.dataset_mode), "train", config.good.image_dir),
        where=config.good.image_dir,
        image_channels=geometry.image_channels,
        image_range=geometry.image_range,
        exif=config.source.exif,
    )
    images = [GoodImage(entry.stem, entry.image, upright=entry.upright) for entry in beside.pairs]
    return replace(
        report,
        problems=(*report.problems, *beside.problems),
        good_images=(*report.good_images, *images),
        good_prints=(*report.good_prints, *(each for each in beside.prints if each is not None)),
    )


def training_dataset(config: TrainConfig, report: ScanReport, world: ProcessGroup) -> SegmentationDataset:
    """Return the training pairs with random augmentation."""
    transform = replace(
        plain_transform(config.geometry, get_mode(config.source.dataset_mode)),
        train=True,
        flip_pairs=flip_pairs(report.encoding.names, None if leaves_masks_aside(config) else config.source.flip_pairs),
        **config.augment.model_dump(),
    )
    return SegmentationDataset(
        report.pairs,
        report.encoding,
        transform,
        image_channels=config.geometry.image_channels,
        image_range=config.geometry.image_range,
        seed=config.run.seed,
        cache_images=config.loader.cache_images,
        num_workers=max(1, default_workers(config.loader, world)) * world.size,
        with_edges=not config.geometry.no_instance,
        good_images=report.good_images,
        windows=window_plan(config.source, config.geometry, config.windows, report),
        holes=hole_maker(config, report.encoding),
        augment=config.model.augment,
        conditions=condition_maker(config, report.encoding),
    )


def condition_maker(config: TrainConfig, encoding: LabelEncoding) -> ConditionMaker | None:
    """Return what makes the conditions of examples of condition boxes, None where they are label maps."""
    if config.model.condition != "boxes":
        return None
    return layout_maker(config, config.boxes, encoding, style_dim=config.model.style_dim, seed=config.run.seed)


def default_workers(options: LoaderOptions, world: ProcessGroup) -> int:
    """Return the number of loading processes: as given, else none on a CPU, which training keeps busy."""
    if options.num_workers is not None:
        return options.num_workers
    return 0 if world.device.type == "cpu" else min(4, os.cpu_count() or 1)
