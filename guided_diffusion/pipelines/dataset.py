"""The checked dataset of a run: nothing is trained or sampled on pairs that were not scanned."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TypeVar

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import GeometryOptions, LoaderOptions, SourceOptions
from guided_diffusion.data.pairing import MaskEntry, Pair, index_pairs
from guided_diffusion.data.scan.duplicates import Twin, find_shared, find_shared_files, shared_problems
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.distributed import ProcessGroup

Config = TypeVar("Config", TrainConfig, CheckConfig)


def with_mode_defaults(config: Config) -> Config:
    """Return `config` with what its dataset_mode has a default for and the user did not say."""
    if "resize" in config.geometry.model_fields_set:
        return config
    return config.replaced(resize=get_mode(config.source.dataset_mode).resize)


def scan_split(
    source: SourceOptions,
    split: str,
    *,
    image_channels: int,
    with_instances: bool = False,
    batch_size: int | None = None,
    encoding: LabelEncoding | None = None,
    look_alikes: bool = False,
) -> ScanReport:
    """Return what a scan of every pair of a split finds, its masks held against `encoding` where that is known.

    batch_size: over all processes; a smaller dataset gets a warning.
    """
    return scan_dataset(
        source.data_dir,
        get_mode(source.dataset_mode),
        split,
        num_classes=source.num_classes,
        image_channels=image_channels,
        batch_size=batch_size,
        ignore_label=source.ignore_label,
        encoding=encoding,
        with_instances=with_instances,
        look_alikes=look_alikes,
    )


def shared_with_training(test: ScanReport, training: ScanReport) -> list[Twin]:
    """Return the test pairs whose image is in the training split, too."""
    return find_shared((test.pairs, test.prints), (training.pairs, training.prints), training.encoding)


def shared_files(source: SourceOptions, training: ScanReport) -> list[Problem]:
    """Return a warning for each test image whose file is in the training split; cheap, and of bytes only."""
    test, _ = index_pairs(source.data_dir, get_mode(source.dataset_mode), "test", with_instances=False)
    return shared_problems(find_shared_files(test, training.pairs, training.prints), len(test))


def open_training_data(config: TrainConfig, processes: int = 1) -> ScanReport:
    """Scan the training split, print its warnings and return it.

    Raises DataError with a line for everything that keeps the dataset from being trained on.
    """
    report = scan_split(
        config.source,
        "train",
        image_channels=config.geometry.image_channels,
        with_instances=not config.geometry.no_instance,
        batch_size=config.optimizer.batch_size * processes,
    )
    encoding = report.raise_if_fatal()
    for line in problem_lines([*report.warnings, *shared_files(config.source, report)]):
        print(f"warning: {line}")
    if config.geometry.resize == "pad":
        # Borders are of no class, and samples are written with them: there must be a value for it.
        report = replace(report, encoding=encoding.with_ignore())
    return report


def plain_transform(geometry: GeometryOptions) -> JointTransform:
    """Return the transform to the size of the network, without augmentation."""
    return JointTransform(height_width(geometry.image_size), resize=geometry.resize, train=False)


def shown_dataset(
    pairs: tuple[Pair | MaskEntry, ...] | list[Pair], encoding: LabelEncoding, geometry: GeometryOptions
) -> SegmentationDataset:
    """Return pairs as the network sees them, without augmentation: for pictures and comparisons."""
    return SegmentationDataset(
        pairs,
        encoding,
        plain_transform(geometry),
        image_channels=geometry.image_channels,
        with_edges=not geometry.no_instance,
    )


def training_dataset(config: TrainConfig, report: ScanReport, world: ProcessGroup) -> SegmentationDataset:
    """Return the training pairs with random augmentation."""
    transform = JointTransform(
        height_width(config.geometry.image_size),
        resize=config.geometry.resize,
        train=True,
        random_flip=config.augment.random_flip,
        vertical_flip=config.augment.vertical_flip,
        rotate90=config.augment.rotate90,
    )
    return SegmentationDataset(
        report.pairs,
        report.encoding,
        transform,
        image_channels=config.geometry.image_channels,
        seed=config.run.seed,
        cache_images=config.loader.cache_images,
        num_workers=max(1, default_workers(config.loader, world)) * world.size,
        with_edges=not config.geometry.no_instance,
    )


def default_workers(options: LoaderOptions, world: ProcessGroup) -> int:
    """Return the number of loading processes: as asked, or by default none on a CPU, which training keeps busy."""
    if options.num_workers is not None:
        return options.num_workers
    return 0 if world.device.type == "cpu" else min(4, os.cpu_count() or 1)
