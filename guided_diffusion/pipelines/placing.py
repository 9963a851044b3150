"""What `place` puts where: the good images of a run, and the defects that each of them gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from guided_diffusion.conditions.base import Size
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data.components import Box, Component, find_components
from guided_diffusion.data.datasets import check_sizes, read_mask
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import GoodImage, list_good_images
from guided_diffusion.data.placing.bank import DefectBank
from guided_diffusion.data.placing.scene import PlacedDefect, Scene, Skipped, plan_scene
from guided_diffusion.data.placing.sources import LabelMaps, PlacementsFile
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.pipelines.dataset import scan_split
from guided_diffusion.pipelines.inpainting import Hole
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import digest
from guided_diffusion.runtime.seeding import Stream, derive_seed

_RING = 2  # px around a defect of which it takes the class when it is painted over


class Finished(NamedTuple):
    """How an image is to look when it is painted."""

    label: NDArray[np.integer]  # [H, W] class ids
    holes: Sequence[Hole]
    defects: Sequence[PlacedDefect]  # one for each hole
    skipped: Sequence[Skipped]


@dataclass(frozen=True)
class PlacePlan:
    """The good images of a run and what is done to them; `inputs` is a digest of everything that decides about it."""

    images: tuple[GoodImage, ...]
    inputs: str
    finished: Callable[[GoodImage, Size, int], Finished]
    """(good image, its height and width, number of the sample) -> how it is to look."""


def plan_placing(config: PlaceConfig, trained: TrainedConfig, encoding: LabelEncoding) -> PlacePlan:
    """Read the training masks, label maps or placements that `config` names, and list the good images.

    Raises UserError for what is missing or contradicts the images.
    """
    bank, digests = (None, []) if not config.source.data_dir else _read_bank(config, trained, encoding)
    if config.erase:
        assert bank is not None
        return _erasing(trained, encoding, bank, digests)
    images = list_good_images(config.good_dir, upright=trained.source.exif != "ignore")
    _refuse_small_images(images, trained)
    options, margin = config.placing, round(config.hole_margin / trained.geometry.scale)
    base, region = _OrdinaryClasses(trained, encoding), _Region(config.region)
    if options.mask_source == "dir":
        classes = bank.classes if bank else _without_background(trained, encoding)
        maps = LabelMaps(options.placed_masks, encoding, classes)
        chosen = tuple(image for image in images if image.stem in maps.paths)
        if not chosen:
            found = f"has no label map named as one of the {len(images)} images of good_dir"
            raise DataError.of(options.placed_masks, found, f"name them as these, such as {images[0].stem}.png")
        _say_left_out(images, chosen, "have no label map")

        def scene(good: GoodImage, size: Size, number: int) -> Scene:
            return maps.scene(good.stem, size, upright=good.upright)

        digests += [digest(Path(maps.paths[image.stem])) for image in chosen]
    elif options.mask_source == "file":
        assert bank is not None
        file = PlacementsFile(options.placements, bank, {image.stem for image in images})
        chosen = tuple(image for image in images if file.placements.get(image.stem))
        _say_left_out(images, chosen, "are not named in placements")

        def scene(good: GoodImage, size: Size, number: int) -> Scene:
            return file.scene(good.stem, size, _generator(config.seed, number), edit=options.edit)

        digests.append(digest(Path(options.placements)))
    else:
        assert bank is not None
        chosen = tuple(images)

        def scene(good: GoodImage, size: Size, number: int) -> Scene:
            return plan_scene(
                bank,
                size,
                _generator(config.seed, number),
                options,
                gap=margin,
                host_map=None if good.mask is None else base.of(good, size),
                region=region.of(good, size),
            )

    def finished(good: GoodImage, size: Size, number: int) -> Finished:
        planned = scene(good, size, number)
        label = base.of(good, size)
        planned.paint_label(label)
        holes = [Hole(defect.box, defect.mask) for defect in planned.placements]
        return Finished(label, holes, planned.placements, planned.skipped)

    return PlacePlan(chosen, _joined(digests + region.digests(chosen)), finished)


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(Stream.SCENE, seed, number))


def _joined(digests: Sequence[str]) -> str:
    return sha256(json.dumps(sorted(digests)).encode()).hexdigest()[:16]


def _say_left_out(images: Sequence[GoodImage], chosen: Sequence[GoodImage], why: str) -> None:
    if len(chosen) < len(images):
        print(f"{len(images) - len(chosen)} of {len(images)} good images {why} and are left out")


def _without_background(trained: TrainedConfig, encoding: LabelEncoding) -> list[int]:
    mode = get_mode(trained.source.dataset_mode)
    ground = {mode.background, *mode.unlabeled_classes(encoding.names)}
    return [class_id for class_id in range(encoding.num_classes) if class_id not in ground]


def _read_bank(config: PlaceConfig, trained: TrainedConfig, encoding: LabelEncoding) -> tuple[DefectBank, list[str]]:
    """Return the bank of the training masks, and digests of these."""
    mode = get_mode(trained.source.dataset_mode)
    report = scan_split(trained.source, trained.geometry, "train", encoding=encoding)
    report.raise_if_fatal()
    masks = ((pair.stem, read_mask(pair.mask, encoding, upright=pair.upright).numpy()) for pair in report.pairs)
    unlabeled = mode.unlabeled_classes(encoding.names)
    bank = DefectBank.build(masks, encoding.names, config.placing, background=mode.background, unlabeled=unlabeled)
    return bank, [each.mask.hex() for each in report.prints if each is not None]


def _refuse_small_images(images: Sequence[GoodImage], trained: TrainedConfig) -> None:
    """Raise ConfigError where every good image, as the model sees it, is smaller than a window."""
    transform = JointTransform(image_size=_window(trained), resize="window", scale=trained.geometry.scale)
    sizes = []
    for image in images[:1000]:
        try:
            with Image.open(image.image) as picture:
                sizes.append(transform.reduced(picture.size[::-1]))
        except OSError:
            return  # in the cloud, or damaged: reading it says so
    window = _window(trained)
    if all(size[0] < window[0] and size[1] < window[1] for size in sizes):
        largest = max(sizes)
        found = (
            f"at scale {trained.geometry.scale:g} its images have at most {largest[1]}x{largest[0]} pixels, less than"
        )
        line = (
            f"good_dir: {found} a window of {window[1]}x{window[0]}: use larger images, or a model of smaller windows"
        )
        raise ConfigError.of_keys(("good_dir", line))


def _window(trained: TrainedConfig) -> Size:
    size = trained.geometry.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class _OrdinaryClasses:
    """The label maps of good images before anything is painted."""

    def __init__(self, trained: TrainedConfig, encoding: LabelEncoding):
        self._encoding = encoding
        self._background = get_mode(trained.source.dataset_mode).background

    def of(self, good: GoodImage, size: Size) -> NDArray[np.integer]:
        """Return a new map [H, W]: its mask, or background everywhere."""
        if good.mask is None:
            return np.full(size, self._background, np.uint8 if self._encoding.num_classes < 256 else np.int32)
        label = read_mask(good.mask, self._encoding, upright=good.upright).numpy().copy()
        check_sizes(good.image, size, good.mask, label.shape)
        return label


class _Region:
    """Where defects may be: one mask for all good images, or one for each in a folder."""

    def __init__(self, path: str):
        self._path = Path(path) if path else None
        if self._path is not None and not self._path.exists():
            raise DataError.of(path, "does not exist", "check region")

    def file(self, good: GoodImage) -> Path | None:
        if self._path is None or not self._path.is_dir():
            return self._path
        file = self._path / f"{good.stem}.png"
        if not file.exists():
            raise DataError.of(file, "is missing: region has to have a mask for every good image", "add it")
        return file

    def of(self, good: GoodImage, size: Size) -> NDArray[np.bool_] | None:
        """Return where defects may be in a good image, [H, W]; None: everywhere."""
        file = self.file(good)
        if file is None:
            return None
        allowed = np.asarray(open_mask(file).convert("L")) > 0
        check_sizes(str(file), allowed.shape, good.image, size)
        return allowed

    def digests(self, images: Sequence[GoodImage]) -> list[str]:
        files = {file for image in images if (file := self.file(image)) is not None}
        return [digest(file) for file in files]


def _erasing(trained: TrainedConfig, encoding: LabelEncoding, bank: DefectBank, digests: Sequence[str]) -> PlacePlan:
    """Return the plan that paints over the defects of the dataset's own images."""
    report = scan_split(trained.source, trained.geometry, "train", encoding=encoding)
    base, having = _OrdinaryClasses(trained, encoding), {part.name for part in bank.parts}
    pairs = [pair for pair in report.pairs if pair.stem in having]
    images = tuple(GoodImage(pair.stem, pair.image, pair.mask, pair.upright) for pair in pairs)
    background = get_mode(trained.source.dataset_mode).background

    def finished(good: GoodImage, size: Size, number: int) -> Finished:
        label = base.of(good, size)
        defects = find_components(label, bank.classes)
        healed = label.copy()
        for defect in defects:
            healed[defect.box.slices][defect.mask] = _surrounding(label, defect, bank.classes, background)
        placed = [
            PlacedDefect(part.class_id, part.mask, part.box.top, part.box.left, f"{good.stem}#{index}")
            for index, part in enumerate(defects)
        ]
        return Finished(healed, [Hole(defect.box, defect.mask) for defect in defects], placed, ())

    return PlacePlan(images, _joined(list(digests)), finished)


def _surrounding(label: NDArray[np.integer], defect: Component, classes: Sequence[int], background: int) -> int:
    """Return the commonest class around a defect, other than defects and ignored pixels; the background without any."""
    box = Box(
        max(0, defect.box.top - _RING),
        max(0, defect.box.left - _RING),
        min(label.shape[0], defect.box.bottom + _RING),
        min(label.shape[1], defect.box.right + _RING),
    )
    own = np.zeros(box.size, bool)
    own[defect.box.top - box.top :, defect.box.left - box.left :][: defect.mask.shape[0], : defect.mask.shape[1]] = (
        defect.mask
    )
    around = label[box.slices][ndimage.binary_dilation(own, iterations=_RING) & ~own]
    around = around[~np.isin(around, classes)]
    return int(np.bincount(around).argmax()) if around.size else background
