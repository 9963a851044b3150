"""The dataset of a run, scanned before anything is trained on it or sampled from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.boxes.layouts import whole_pixels
from guided_diffusion.data.components import Box
from guided_diffusion.data.condition_makers import ConditionMaker
from guided_diffusion.data.datasets import SegmentationDataset, foreground_classes, read_mask
from guided_diffusion.data.files import is_folder
from guided_diffusion.data.holes import HoleMaker
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import IMAGES, DatasetMode, get_mode
from guided_diffusion.data.options import GeometryOptions, SourceOptions, WindowOptions
from guided_diffusion.data.pairing import (
    GOOD_STEM,
    GoodImage,
    MaskEntry,
    Pair,
    index_images,
    index_pairs,
    list_good_images,
)
from guided_diffusion.data.scan.duplicates import Twin, find_shared, find_shared_files, shared_problems
from guided_diffusion.data.scan.good_images import good_images_with_masks, scan_good_images
from guided_diffusion.data.scan.images import scan_images
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.data.scan.windows import window_problems
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.windows import WindowPlan, boxes_of, plan_windows
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.training.options import DEFAULT_MASK_SUPERVISION

Config = TypeVar("Config", TrainConfig, CheckConfig)


def with_mode_defaults(config: Config) -> Config:
    """Return `config` with `resize` and `condition` as its dataset_mode has them, where they were not given.

    `image_dir` alone means the mode of images alone. Raises ConfigError for a condition that the dataset_mode does not
    have, and for a dataset_mode and a data_dir of which only one is given.
    """
    source = config.source
    if not source.dataset_mode:
        if source.data_dir:
            line = "dataset_mode is missing: data_dir needs it, as image_dir alone does not; add it to the config"
            raise ConfigError.of_keys(("dataset_mode", line))
        config = config.replaced(dataset_mode=IMAGES)
    mode = get_mode(config.source.dataset_mode)
    if mode.name != IMAGES and not source.data_dir:
        line = f"dataset_mode is {source.dataset_mode}, the layout of a data_dir, which is not given: give it, or "
        raise ConfigError.of_keys(("dataset_mode", f"{line}leave dataset_mode out, as image_dir alone needs none"))
    if "resize" not in config.geometry.model_fields_set:
        config = config.replaced(resize=mode.resize)
    if isinstance(config, TrainConfig):
        open_condition = not {"condition", "class_cond"} & config.given and not config.generation.makes_masks
        if mode.masks is None and open_condition:
            boxed = mode.boxes is not None
            config = config.replaced(condition="boxes" if boxed else "none", class_cond=boxed)
        refuse_missing_condition(config)
    return config


def refuse_missing_condition(config: TrainConfig) -> None:
    """Raise ConfigError where masks or boxes are to be learned that the data do not have, or holes and windows to lie
    on them.
    """
    source, condition = config.source, config.model.condition
    mode = get_mode(source.dataset_mode)
    if condition == "boxes":
        _refuse_misfits_of_boxes(config, mode)
        return
    weight = config.layouts.mask_supervision
    if weight not in (0, DEFAULT_MASK_SUPERVISION):
        line = (
            f'mask_supervision is {weight:g}, but condition is "{condition}": leave it out, or set condition to boxes'
        )
        raise ConfigError.of_keys(("mask_supervision", line))
    if condition == "none":
        if not source.data_dir and not leaves_masks_aside(config):
            line = f"data_dir is missing: windows and holes lie on the defects in the masks of {source.dataset_mode}"
            raise ConfigError.of_keys(("data_dir", f"{line}, which the network was trained with; give it"))
        return
    without = "set condition to none" if mode.boxes is None else "set condition to boxes or none"
    key, value = "condition", condition
    if config.generation.makes_masks:
        key, value, without = "generates", config.generation.generates, "set generates to image and condition to none"
    if mode.masks is None:
        line = f'{key} is "{value}", but dataset_mode {source.dataset_mode} has no masks: {without}, or dataset_mode '
        raise ConfigError.of_keys((key, f"{line}to one with masks"))
    if config.good.image_dir:
        line = f'image_dir has images without masks, but {key} is "{value}": {without}, which leaves the masks of '
        raise ConfigError.of_keys(("image_dir", f"{line}data_dir aside, or leave image_dir out"))


def _refuse_misfits_of_boxes(config: TrainConfig, mode: DatasetMode) -> None:
    """Raise ConfigError for what does not go with boxes, in particular with those of the dataset_mode."""
    problems = list(config.box_problems())
    if mode.masks is None and mode.boxes is None:
        line = f'condition is "boxes", but dataset_mode {mode.name} has neither boxes nor masks: set condition to none'
        problems.append(("condition", f"{line}, or dataset_mode to one that has them"))
    elif mode.masks is None:
        if not config.geometry.no_instance:
            line = f"no_instance is false, but dataset_mode {mode.name} has no instance maps, only boxes: leave it out"
            problems.append(("no_instance", line))
        weight = config.layouts.mask_supervision
        if weight not in (0, DEFAULT_MASK_SUPERVISION):
            line = f"mask_supervision is {weight:g}, but dataset_mode {mode.name} has no masks to learn from: set "
            problems.append(("mask_supervision", f"{line}it to 0"))
    if config.good.image_dir:
        line = 'image_dir has any images, but condition is "boxes": leave it out; those without objects go to good_dir'
        problems.append(("image_dir", line))
    if problems:
        raise ConfigError.of_keys(*problems)


def leaves_masks_aside(config: TrainConfig) -> bool:
    """Return whether a training reads neither masks nor boxes: it has no condition, and nothing lies on defects."""
    if config.model.condition == "boxes":
        return False
    if get_mode(config.source.dataset_mode).masks is None:
        return True
    return config.model.condition == "none" and not config.model.inpaint and config.geometry.resize != "window"


def scan_unlabeled(
    config: TrainConfig | CheckConfig, split: str = "train", *, batch_size: int | None = None, look_alikes: bool = False
) -> ScanReport:
    """Return the scan of the images of a split without their masks; of the training split with those beside it.

    batch_size: over all processes; a smaller dataset gets a warning.
    """
    source, geometry = config.source, config.geometry
    mode, beside = get_mode(source.dataset_mode), config.good.image_dir if split == "train" else ""
    images, problems = index_images(source.data_dir, mode, split, beside)
    if split == "train" and (folder := good_folder(config)):
        images += [replace(pair, mask=None) for pair in as_pairs(list_good_images(folder))]
    report = scan_images(
        images,
        problems,
        where=source.data_dir or beside,
        image_channels=geometry.image_channels,
        image_range=geometry.image_range,
        exif=source.exif,
        batch_size=batch_size,
        look_alikes=look_alikes,
    )
    too_large = window_problems(report.image_sizes, plain_transform(geometry, mode))
    return replace(report, problems=(*report.problems, *too_large))


def scan_split(
    source: SourceOptions,
    geometry: GeometryOptions,
    split: str,
    *,
    batch_size: int | None = None,
    encoding: LabelEncoding | None = None,
    look_alikes: bool = False,
) -> ScanReport:
    """Return the scan of every pair of a split, its masks checked against `encoding` where that is given.

    batch_size: over all processes; a smaller dataset gets a warning.
    """
    if "://" in source.data_dir:
        is_folder(source.data_dir)  # one line where the cloud does not answer, not one for each folder
    return scan_dataset(
        source.data_dir,
        get_mode(source.dataset_mode),
        split,
        num_classes=source.num_classes,
        image_channels=geometry.image_channels,
        image_range=geometry.image_range,
        transform=plain_transform(geometry, get_mode(source.dataset_mode)),
        batch_size=batch_size,
        ignore_label=source.ignore_label,
        exif=source.exif,
        encoding=encoding,
        with_instances=not geometry.no_instance,
        look_alikes=look_alikes,
    )


def scan_as_stored(
    source: SourceOptions,
    mode: DatasetMode,
    split: str,
    *,
    encoding: LabelEncoding | None = None,
    progress: bool = True,
) -> ScanReport:
    """Return the scan of a split whose masks are used at their own size, without instance maps.

    mode: the layout, which the results of this project have without a dataset_mode.
    """
    return scan_dataset(
        source.data_dir,
        mode,
        split,
        num_classes=source.num_classes,
        ignore_label=source.ignore_label,
        exif=source.exif,
        encoding=encoding,
        with_instances=False,
        progress=progress,
    )


def shared_with_training(test: ScanReport, training: ScanReport) -> list[Twin]:
    """Return the test pairs whose image is in the training split, or of equal pixels among its good images."""
    tested = test.pairs, test.prints
    found = find_shared(tested, (training.pairs, training.prints), training.encoding)
    good = find_shared(tested, (as_pairs(training.good_images), training.good_prints), training.encoding)
    known = {twin.pair.stem for twin in found}
    # A good image without a mask is background, of which a test mask may be, too.
    beside = [replace(twin, other_mask=twin.other_mask and twin.of.mask is not None) for twin in good]
    return found + [twin for twin in beside if twin.pair.stem not in known]


def shared_with_good(test: ScanReport, good: Sequence[GoodImage]) -> list[Twin]:
    """Return the test pairs whose image file is a good image byte by byte; only files of equal size are read."""
    found = find_shared_files(as_pairs(good), test.pairs, test.prints)
    return [replace(twin, pair=twin.of, of=twin.pair) for twin in found]


def as_pairs(good: Sequence[GoodImage]) -> tuple[Pair, ...]:
    """Return good images as the pairs that they are trained on as, under names of their own."""
    return tuple(Pair(GOOD_STEM + each.stem, each.image, each.mask, upright=each.upright) for each in good)


def shared_files(source: SourceOptions, training: ScanReport) -> list[Problem]:
    """Return a warning for each test image whose file is in the training split; cheap, and of bytes only."""
    mode = get_mode(source.dataset_mode)
    if not source.data_dir:
        return []
    if mode.masks is None or training.noun == "images":
        test, _ = index_images(source.data_dir, mode, "test")
    else:
        test, _ = index_pairs(source.data_dir, mode, "test", with_instances=False)
    pairs, prints = (*training.pairs, *as_pairs(training.good_images)), (*training.prints, *training.good_prints)
    return shared_problems(find_shared_files(test, pairs, prints), len(test))


def with_good_images(report: ScanReport, config: TrainConfig | CheckConfig) -> ScanReport:
    """Return the scan of a training split with the good images that `config` has beside it, and their problems."""
    folder, geometry = good_folder(config), config.geometry
    if folder:
        images, prints, problems = scan_good_images(
            folder,
            geometry.image_channels,
            geometry.image_range,
            encoding=report.encoding,
            pair_modes=report.image_modes,
            exif=config.source.exif,
            pairs=report.pairs,
        )
        problems += good_images_with_masks(images, prints, report.pairs, report.prints)
        report = replace(
            report,
            problems=(*report.problems, *problems),
            good_images=tuple(images),
            good_prints=tuple(prints),
        )
    if report.good_images:  # they count in a batch, too
        problems = [problem for problem in report.problems if problem.kind is not ProblemKind.SHORT_BATCH]
        report = replace(report, problems=tuple(problems))
    too_large = window_problems(report.image_sizes, plain_transform(geometry, get_mode(config.source.dataset_mode)))
    return replace(report, problems=(*report.problems, *too_large))


def good_folder(config: TrainConfig | CheckConfig) -> str:
    """Return the folder of good images: `good_dir`, else the dataset's own if there is one, else ""."""
    if config.good.good_dir:
        return config.good.good_dir
    beside = own_good_folder(config.source)
    return beside if beside and is_folder(beside) else ""


def own_good_folder(source: SourceOptions) -> str:
    """Return where a dataset may have good images of its own, `train/good`; "" in the cloud, which is not asked."""
    has_none = not source.data_dir or "://" in source.data_dir
    return "" if has_none else os.path.join(source.data_dir, "train", "good")


def own_good_images(source: SourceOptions) -> list[GoodImage]:
    """Return the good images that a dataset has of its own; none where they cannot be used."""
    folder = own_good_folder(source)
    try:
        return list_good_images(folder) if folder and is_folder(folder) else []
    except DataError:
        return []


def plain_transform(geometry: GeometryOptions, mode: DatasetMode) -> JointTransform:
    """Return the transform to the size of the network, without augmentation."""
    return JointTransform(**_geometry(geometry, mode), train=False)


def _geometry(geometry: GeometryOptions, mode: DatasetMode) -> dict[str, Any]:
    """Return the arguments of the transform that training and sampling share."""
    return {
        "image_size": height_width(geometry.image_size),
        "resize": geometry.resize,
        "scale": geometry.scale,
        "mask_resize": geometry.mask_resize,
        "background": mode.background,
    }


def shown_dataset(
    pairs: Sequence[Pair | MaskEntry],
    encoding: LabelEncoding,
    geometry: GeometryOptions,
    mode: DatasetMode,
    *,
    holes: HoleMaker | None = None,
    conditions: ConditionMaker | None = None,
    may_cache: bool = True,
) -> SegmentationDataset:
    """Return pairs as the network sees them, without augmentation; windows show the largest component.

    may_cache: keep decoded pictures if they fit, to find out which some of the files are opened at once.
    """
    return SegmentationDataset(
        pairs,
        encoding,
        plain_transform(geometry, mode),
        image_channels=geometry.image_channels,
        image_range=geometry.image_range,
        with_edges=not geometry.no_instance,
        holes=holes,
        conditions=conditions,
        cache_images="auto" if may_cache else False,
    )


def shown_windows(config: CheckConfig, report: ScanReport, plan: WindowPlan) -> SegmentationDataset:
    """Return the windows of a training on a scanned split, neither flipped nor turned."""
    transform = plain_transform(config.geometry, get_mode(config.source.dataset_mode))
    return SegmentationDataset(
        report.pairs,
        report.encoding,
        replace(transform, train=True, random_flip=False),
        image_channels=config.geometry.image_channels,
        image_range=config.geometry.image_range,
        cache_images=False,
        with_edges=not config.geometry.no_instance,
        good_images=report.good_images,
        windows=plan,
    )


def hole_maker(config: TrainConfig, encoding: LabelEncoding) -> HoleMaker | None:
    """Return what draws the holes of an inpainting network, None for others."""
    if not config.model.inpaint:
        return None
    background = get_mode(config.source.dataset_mode).background
    return HoleMaker(config.windows.hole_shares, foreground_classes(encoding.num_classes, background))


def window_plan(
    source: SourceOptions, geometry: GeometryOptions, options: WindowOptions, report: ScanReport
) -> WindowPlan | None:
    """Return where the windows of training lie, None where there are none; reads every mask."""
    if geometry.resize != "window":
        return None
    classes = foreground_classes(report.encoding.num_classes, get_mode(source.dataset_mode).background)

    def boxes(pair: Pair) -> list[tuple[int, Box]]:
        if pair.boxes is not None:
            return [(each.class_id, whole_pixels(each.box)) for each in pair.boxes.objects]
        if pair.mask is None:
            return []
        return boxes_of(read_mask(pair.mask, report.encoding, upright=pair.upright), classes)

    found = in_threads(boxes, report.pairs, "finding defects", progress=True)
    return plan_windows(found, focus=options.window_focus, good_images=len(report.good_images))
