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
from evaluations.metrics.lpips_diversity import groups_of_one, groups_of_one_mask
from evaluations.objects import ImageObjects, LayoutSets
from evaluations.sets import Images, ImageSet
from guided_diffusion.config.evaluate import EvaluateConfig, ViewOptions
from guided_diffusion.data.arrays import load_arrays, load_boxed_arrays
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.groups import shared_group_problems
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.mirror import FlipPairs, flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.boxes import scan_boxes
from guided_diffusion.data.scan.duplicates import DUPLICATES, Twin, shared_problems
from guided_diffusion.data.scan.problems import UNSEEN, ProblemKind, problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.visualize import Pixels
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.changed_data import changes_since_sampling
from guided_diffusion.pipelines.dataset import own_good_images, shared_with_good, shared_with_training
from guided_diffusion.pipelines.evaluation.objects import ObjectReader, as_objects, find_null, layout_key, null_pairs
from guided_diffusion.pipelines.evaluation.options import (
    find_others,
    made_otherwise,
    needs_training,
    size_of_samples,
    without_masks,
)
from guided_diffusion.pipelines.evaluation.sample_origins import (
    ReadSamples,
    Split,
    lost_lines,
    origin_lines,
    traced,
)
from guided_diffusion.pipelines.pseudo_labels import pseudo_label_lines, pseudo_sample_lines, refuse_test_images
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.reader import SampleFolder, find_samples, open_samples, with_ignored

_NEED_MASKS = "the study, mask agreement, statistics of masks and areas of classes"
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


LEAST, LEAST_SAMPLES = {"train": 4, "test": 2}, 2
"""Pairs without which nothing can be compared."""


@dataclass(frozen=True)
class View:
    """How files are read as arrays."""

    encoding: LabelEncoding
    options: ViewOptions
    background: int
    folder: SampleFolder
    objects: ObjectReader | None = None
    """None where neither objects are measured nor real images have boxes in place of masks."""

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
        return self.read_objects(pairs, name, samples=samples)[0]

    def read_objects(
        self, pairs: Sequence[Pair], name: str = "", *, samples: SampleFolder | None = None
    ) -> tuple[ImageSet, tuple[ImageObjects, ...]]:
        """Return what `read` does, and the objects of each image; () where no objects are read."""
        transform, image_range = _transform(self.options, self.background), self.options.image_range
        if samples is not None and samples.holds_windows:
            transform = replace(transform, resize="squash")
        elif transform.resize == "window":
            transform = replace(transform, image_size=self.window)
        if samples is not None and not samples.has_native_depth:
            image_range = "full"
        channels, progress = self.options.image_channels, name and f"reading {name}"
        objects: Sequence[tuple[np.ndarray, np.ndarray]] = ()
        if self.objects is None:
            images, labels = load_arrays(
                pairs, self.encoding, transform, channels, image_range=image_range, progress=progress
            )
        else:
            boxed, maker = self.objects.with_layouts(pairs, samples), self.objects.maker_of(samples)
            images, labels, objects = load_boxed_arrays(
                boxed, self.encoding, transform, maker, channels, image_range=image_range, progress=progress
            )
        if images.shape[1:3] != self.size:
            images, labels = squashed(images, labels, self.size)
        names = tuple(pair.stem for pair in pairs)
        return ImageSet(images, labels, names, self.encoding.num_classes), as_objects(objects)


def squashed(images: Pixels, labels: np.ndarray, size: tuple[int, int]) -> tuple[Pixels, np.ndarray]:
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
    null: the samples drawn without their objects, and how; None: there are none. flip_pairs: of mirrored images.
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
    null: tuple[SampleFolder, str] | None
    folder: SampleFolder
    others: Mapping[str, tuple[SampleFolder, tuple[Pair, ...]]]
    shared: tuple[Twin, ...]
    warnings: tuple[str, ...]
    with_objects: bool = False
    flip_pairs: FlipPairs = ()
    whole_training: bool = True
    """Whether `training`, where it is read, has all pairs of its split."""


def refuse_few(count: int, where: Path, least: int) -> None:
    """Raise DataError where a folder has fewer pairs than can be compared."""
    if count < least:
        raise DataError(f"{where}: has {count} pair(s), and a comparison needs at least {least}: add some")


def scan_data(config: EvaluateConfig, folder: SampleFolder) -> ScannedData:
    """Scan the splits of the real dataset that the (resolved) options need, and the samples.

    Raises DataError with a line for everything that prevents the comparison.
    """
    training, encoding, warnings, shared = None, None, [], []
    real = None
    if needs_training(config):
        real = _scan(config, folder, "train", None)
        encoding, training = real.raise_if_fatal(), real.pairs
        warnings = problem_lines(problem for problem in real.warnings if problem.kind in _REPORTED)
        warnings += _other_training_data(config.source.data_dir, folder, real)
    report = _scan(config, folder, "test", encoding)
    unseen = problem_lines(problem for problem in report.warnings if problem.kind in UNSEEN)
    warnings += [f"test split: {line}" for line in unseen]
    encoding, test = report.raise_if_fatal(), report.pairs
    warnings += problem_lines(problem for problem in report.warnings if problem.kind in DUPLICATES)
    if real is not None:
        good = own_good_images(config.source)
        shared = shared_with_training(report, real)
        known = {twin.pair.stem for twin in shared}
        shared += [twin for twin in shared_with_good(report, good) if twin.pair.stem not in known]
        of_groups = shared_group_problems(config.source.group_pattern, test, (*real.pairs, *good))
        warnings += problem_lines([*shared_problems(shared, len(test)), *of_groups])
    view = config.view
    if view.resize in ("pad", "window"):
        # Borders are ignored pixels, and samples were written with them.
        encoding = encoding.with_ignore()
    several_folder = find_samples(config.quality.diversity_dir) if config.quality.diversity_dir else folder
    others = find_others(config, folder)
    for each in (folder, several_folder, *others.values()):
        encoding = with_ignored(encoding, each)
    pairs = open_samples(folder, encoding, view.image_channels)
    for split, found in (("train", training), ("test", test)):
        if found is not None:
            refuse_few(len(found), Path(config.source.data_dir) / split, LEAST[split])
    refuse_few(len(pairs), folder.folder, LEAST_SAMPLES)
    several = pairs if several_folder is folder else open_samples(several_folder, encoding, view.image_channels)
    background, objects = get_mode(config.source.dataset_mode).background, None
    if config.objects.objects or without_masks(config.source.dataset_mode):
        objects = ObjectReader.of(config, encoding, with_instances=_with_instances(config, folder))
    if without_masks(config.source.dataset_mode):
        warnings.append(f"{config.source.data_dir}: has boxes and no masks: {_NEED_MASKS} are not measured")
    null = find_null(config.objects.null_dir, folder) if config.objects.null_dir else None
    seen = View(encoding, view, background, folder, objects)
    warnings += pseudo_label_lines(config.source.data_dir, ("train", "test") if training is not None else ("test",))
    warnings += made_otherwise(folder, view, "leave {keys} out")
    for other in others.values():
        warnings += made_otherwise(other, view, "give samples made alike")
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
        null,
        folder,
        {name: (other, open_samples(other, encoding, view.image_channels)) for name, other in others.items()},
        tuple(shared),
        (*warnings, *_size_warning(folder, pairs, seen.window if view.resize == "window" else seen.size)),
        bool(config.objects.objects),
        flip_pairs(encoding.names, config.source.flip_pairs),
        config.max_training is None,
    )


def _with_instances(config: EvaluateConfig, folder: SampleFolder) -> bool:
    """Return whether objects of masks are instances, where there are maps of these: as the samples were made."""
    return bool(config.objects.objects) and folder.config.get("no_instance") is not True


def _scan(config: EvaluateConfig, folder: SampleFolder, split: str, encoding: LabelEncoding | None) -> ScanReport:
    source = config.source
    first = config.max_training if split == "train" else config.max_test
    if without_masks(source.dataset_mode):
        report = scan_boxes(
            source.data_dir,
            get_mode(source.dataset_mode),
            split,
            num_classes=source.num_classes,
            encoding=encoding,
            image_channels=config.view.image_channels,
            image_range=config.view.image_range,
            exif=source.exif,
            look_alikes=True,
        )
        return replace(report, pairs=report.pairs[:first], prints=report.prints[:first])
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
        with_instances=_with_instances(config, folder),
        look_alikes=True,
        first=first,
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
    training, training_objects = (None, None)
    if scanned.training is not None:
        training, training_objects = view.read_objects(scanned.training, "training")
    test, test_objects = view.read_objects(scanned.test, "test")
    splits = (Split(scanned.training, training, scanned.whole_training), Split(scanned.test, test))
    samples = read_samples(view, scanned.folder, scanned.samples, splits, "samples")
    lines = origin_lines(samples, splits[0], compared_with_test=compared_with_test)
    others = {
        name: read_samples(view, folder, pairs, splits, f"samples of {name}")
        for name, (folder, pairs) in scanned.others.items()
    }
    lines += [line for each in (samples, *others.values()) for line in lost_lines(each)]
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
        flip_pairs=scanned.flip_pairs,
        has_masks=any(pair.mask is not None for pair in scanned.test),
        layouts=_layouts(scanned, training_objects, test_objects, samples) if scanned.with_objects else None,
    )
    return EvaluationData(scanned, sets, samples, others, (*lines, *scanned.warnings))


def _layouts(
    scanned: ScannedData,
    training: tuple[ImageObjects, ...] | None,
    test: tuple[ImageObjects, ...],
    samples: ReadSamples,
) -> LayoutSets:
    null, kind = None, ""
    if scanned.null is not None:
        folder, kind = scanned.null
        pairs = null_pairs(scanned.samples, scanned.folder, folder)
        null = scanned.view.read(pairs, "samples without objects", samples=folder).images
    return LayoutSets(training, test, samples.objects, scanned.folder.predicted > 0, null, kind)


def read_samples(
    view: View, folder: SampleFolder, pairs: Sequence[Pair], splits: tuple[Split, Split], name: str
) -> ReadSamples:
    """Return samples in memory with their origins in the training and test splits."""
    images, objects = view.read_objects(pairs, name, samples=folder)
    return replace(traced(folder, pairs, images, splits), objects=objects)


def _find_groups(scanned: ScannedData) -> MaskGroups:
    """Read the masks, or the layouts, of the samples whose diversity is measured, and group equal ones."""
    view, pairs, folder = scanned.view, scanned.several, scanned.several_folder
    lines = [folder.line_of(pair) for pair in pairs]
    of_layouts = all(line is not None and line.predicted is not None for line in lines)
    if of_layouts:
        groups = groups_of_one(layout_key(line) for line in lines)
    else:
        bar = tqdm(pairs, desc="reading masks", unit="mask")
        groups = groups_of_one_mask(
            view.encoding.decode(open_mask(pair.mask, upright=pair.upright), pair.mask) for pair in bar
        )

    def load(number: int) -> Images:
        return view.read([pairs[index] for index in groups[number]], samples=scanned.several_folder).images

    return MaskGroups(tuple(map(len, groups)), load, str(folder.folder), "layout" if of_layouts else "mask")
