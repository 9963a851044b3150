"""The data of `evaluate`: the real dataset and the samples, scanned and then read, and the origin of each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evaluations.metrics.base import EvaluationSets, MaskGroups
from evaluations.metrics.lpips_diversity import groups_of_one_mask
from evaluations.sets import Images, ImageSet
from guided_diffusion.config.evaluate import EvaluateConfig, ViewOptions
from guided_diffusion.data.arrays import load_arrays
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.duplicates import DUPLICATES, Twin, shared_problems
from guided_diffusion.data.scan.problems import UNSEEN, ProblemKind, problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.visualize import Pixels
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.changed_data import changes_since_sampling
from guided_diffusion.pipelines.dataset import shared_with_training
from guided_diffusion.pipelines.evaluation.options import find_others, needs_training, size_of_samples
from guided_diffusion.pipelines.evaluation.sample_origins import ReadSamples, Split, origin_lines, traced
from guided_diffusion.pipelines.pseudo_labels import pseudo_label_lines, pseudo_sample_lines, refuse_test_images
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.reader import SampleFolder, find_samples, open_samples, with_ignored

_REPORTED = UNSEEN | {ProblemKind.EMPTY_CLASS, *DUPLICATES}


def _transform(options: ViewOptions, background: int) -> JointTransform:
    return JointTransform(
        height_width(options.image_size),
        resize=options.resize,
        scale=1.0 if options.scale is None else options.scale,
        mask_resize=options.mask_resize,
        background=background,
        train=False,
    )


@dataclass(frozen=True)
class View:
    """How files are read as arrays."""

    encoding: LabelEncoding
    options: ViewOptions
    background: int
    folder: SampleFolder

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the windows that are cut out: those of the samples, if they are windows themselves."""
        return size_of_samples(self.folder.config["image_size"]) if self.folder.holds_windows else self.size

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at which everything is compared."""
        return height_width(self.options.image_size)

    def read(self, pairs: Sequence[Pair], name: str = "", *, samples: SampleFolder | None = None) -> ImageSet:
        """Return scanned pairs as arrays; a progress bar shows their `name`. DataError for files that changed.

        samples: the folder that they are of. Those of `sample` are in the range of the model, and windows already.
        """
        transform, image_range = _transform(self.options, self.background), self.options.image_range
        if samples is not None and samples.holds_windows:
            transform = replace(transform, resize="squash")
        elif transform.resize == "window":
            transform = replace(transform, image_size=self.window)
        if samples is not None and not samples.has_native_depth:
            image_range = "full"
        images, labels = load_arrays(
            pairs,
            self.encoding,
            transform,
            self.options.image_channels,
            image_range=image_range,
            progress=name and f"reading {name}",
        )
        if images.shape[1:3] != self.size:
            images, labels = _squashed(images, labels, self.size)
        return ImageSet(images, labels, tuple(pair.stem for pair in pairs), self.encoding.num_classes)


def _squashed(images: Pixels, labels: np.ndarray, size: tuple[int, int]) -> tuple[Pixels, np.ndarray]:
    """Return images [N, H, W, 3] and label maps [N, H, W] at another size, as samples of other sizes are read."""
    placement = JointTransform(size, "squash", train=False).place((labels.shape[1], labels.shape[2]))
    scaled = [placement.image(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy() for image in images]
    maps = [placement.mask(torch.from_numpy(label.astype(np.int32)), 0).numpy() for label in labels]
    return np.stack(scaled), np.stack(maps).astype(labels.dtype)


def _how_resized(options: ViewOptions) -> str:
    if options.resize == "window":
        scale = 1.0 if options.scale is None else options.scale
        return f"windows of the real images at scale {scale:.4g}, each on the largest defect, and samples of that size"
    return f"images resized to that size ({options.resize}, bicubic, antialiased)"


@dataclass(frozen=True)
class ScannedData:
    """The pairs of everything that is compared, scanned and not yet read; warnings are lines for the report.

    training: None if no measurement needs it, as published datasets have gigabytes of it.
    shared: the test pairs whose image is in train, too.
    several: the samples whose diversity is measured, of the folder `several_folder`. others: further samples for the
    study, by name.
    """

    view: View
    background: int
    training: tuple[Pair, ...] | None
    test: tuple[Pair, ...]
    samples: tuple[Pair, ...]
    several: tuple[Pair, ...]
    several_folder: SampleFolder
    folder: SampleFolder
    others: Mapping[str, tuple[SampleFolder, tuple[Pair, ...]]]
    shared: tuple[Twin, ...]
    warnings: tuple[str, ...]


def scan_data(config: EvaluateConfig, folder: SampleFolder) -> ScannedData:
    """Scan the splits of the real dataset that the (resolved) options need, and the samples.

    Raises DataError with a line for everything that prevents the comparison.
    """
    training, encoding, warnings, shared = None, None, [], []
    real = None
    if needs_training(config):
        real = _scan(config, "train", None)
        encoding, training = real.raise_if_fatal(), real.pairs
        warnings = problem_lines(problem for problem in real.warnings if problem.kind in _REPORTED)
        warnings += _other_training_data(config.source.data_dir, folder, real)
    report = _scan(config, "test", encoding)
    unseen = problem_lines(problem for problem in report.warnings if problem.kind in UNSEEN)
    warnings += [f"test split: {line}" for line in unseen]
    encoding, test = report.raise_if_fatal(), report.pairs
    warnings += problem_lines(problem for problem in report.warnings if problem.kind in DUPLICATES)
    if real is not None:
        shared = shared_with_training(report, real)
        warnings += problem_lines(shared_problems(shared, len(test)))
    view = config.view
    if view.resize in ("pad", "window"):
        # Borders are ignored pixels, and samples were written with them.
        encoding = encoding.with_ignore()
    several_folder = find_samples(config.quality.diversity_dir) if config.quality.diversity_dir else folder
    others = find_others(config, folder)
    for each in (folder, several_folder, *others.values()):
        encoding = with_ignored(encoding, each)
    pairs = open_samples(folder, encoding, view.image_channels)
    data_dir = Path(config.source.data_dir)
    for split, where, least in (
        (training, data_dir / "train", 4),
        (test, data_dir / "test", 2),
        (pairs, folder.folder, 2),
    ):
        if split is not None and len(split) < least:
            raise DataError(f"{where}: has {len(split)} pair(s), and a comparison needs at least {least}: add some")
    several = pairs if several_folder is folder else open_samples(several_folder, encoding, view.image_channels)
    background = get_mode(config.source.dataset_mode).background
    seen = View(encoding, view, background, folder)
    warnings += pseudo_label_lines(config.source.data_dir, ("train", "test") if training is not None else ("test",))
    for each in {samples.folder: samples for samples in (folder, several_folder, *others.values())}.values():
        refuse_test_images(each, test)
        warnings += pseudo_sample_lines(each)
    return ScannedData(
        seen,
        background,
        training,
        test,
        pairs,
        several,
        several_folder,
        folder,
        {name: (other, open_samples(other, encoding, view.image_channels)) for name, other in others.items()},
        tuple(shared),
        (*warnings, *_size_warning(folder, pairs, seen.size)),
    )


def _scan(config: EvaluateConfig, split: str, encoding: LabelEncoding | None) -> ScanReport:
    source = config.source
    return scan_dataset(
        source.data_dir,
        get_mode(source.dataset_mode),
        split,
        num_classes=source.num_classes,
        image_channels=config.view.image_channels,
        image_range=config.view.image_range,
        transform=_transform(config.view, get_mode(source.dataset_mode).background),
        batch_size=config.study.batch_size,
        ignore_label=source.ignore_label,
        exif=source.exif,
        encoding=encoding,
        with_instances=False,
        look_alikes=True,
        first=config.max_training if split == "train" else config.max_test,
    )


def _other_training_data(data_dir: str, folder: SampleFolder, report: ScanReport) -> list[str]:
    found = changes_since_sampling(folder, report)
    if found is None:
        return []
    path, changes = found
    return [
        f"{data_dir}: the training split is not what {path} was trained on ({changes}): copies of the training images "
        "that it saw are not all found; give the data_dir of its training"
    ]


def _size_warning(folder: SampleFolder, pairs: Sequence[Pair], wanted: tuple[int, int]) -> list[str]:
    width, height = open_mask(pairs[0].mask).size
    if height >= wanted[0] and width >= wanted[1]:
        return []
    return [
        f"{folder.folder}: the samples have {width}x{height} pixels and are enlarged to {wanted[1]}x{wanted[0]}, real "
        "images are not: some of their blur comes from that"
    ]


@dataclass(frozen=True)
class EvaluationData:
    """Everything that is compared, in memory; others: by name. warnings are lines for the report."""

    scanned: ScannedData
    sets: EvaluationSets
    samples: ReadSamples
    others: Mapping[str, ReadSamples]
    warnings: tuple[str, ...]


def load_data(scanned: ScannedData, *, compared_with_test: bool) -> EvaluationData:
    """Read the scanned files into memory; DataError for files that have changed since."""
    view = scanned.view
    training = None if scanned.training is None else view.read(scanned.training, "training")
    test = view.read(scanned.test, "test")
    splits = (Split(scanned.training, training), Split(scanned.test, test))
    samples = read_samples(view, scanned.folder, scanned.samples, splits, "samples")
    lines = origin_lines(samples, splits[0], compared_with_test=compared_with_test)
    others = {
        name: read_samples(view, folder, pairs, splits, f"samples of {name}")
        for name, (folder, pairs) in scanned.others.items()
    }
    sets = EvaluationSets(
        training,
        test,
        samples.images,
        tuple(view.encoding.names),
        scanned.background,
        samples.origin,
        samples.test_origin,
        _how_resized(view.options),
        partial(_find_groups, scanned),
        donors=samples.donors,
        new_masks=samples.new_masks,
        mask_flips=samples.mask_flips,
    )
    return EvaluationData(scanned, sets, samples, others, (*lines, *scanned.warnings))


def read_samples(
    view: View, folder: SampleFolder, pairs: Sequence[Pair], splits: tuple[Split, Split], name: str
) -> ReadSamples:
    """Return samples in memory with their origins in the training and test splits."""
    return traced(folder, pairs, view.read(pairs, name, samples=folder), splits)


def _find_groups(scanned: ScannedData) -> MaskGroups:
    """Read the masks of the samples whose diversity is measured, and group equal ones."""
    view, pairs = scanned.view, scanned.several
    bar = tqdm(pairs, desc="reading masks", unit="mask")
    groups = groups_of_one_mask(
        view.encoding.decode(open_mask(pair.mask, upright=pair.upright), pair.mask) for pair in bar
    )

    def load(number: int) -> Images:
        return view.read([pairs[index] for index in groups[number]], samples=scanned.several_folder).images

    return MaskGroups(tuple(map(len, groups)), load, str(scanned.several_folder.folder))
