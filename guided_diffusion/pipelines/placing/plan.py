"""What `place` puts where: the good images of a run, and the defects that each of them gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.paste import Blend
from guided_diffusion.config.scenes import ScenesConfig
from guided_diffusion.data.area import reduced_size
from guided_diffusion.data.components import Box, find_components
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.files import check_sizes, open_image
from guided_diffusion.data.intensity import color_and_alpha
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import GoodImage, MaskEntry, Pair
from guided_diffusion.data.placing.bank import DefectBank, class_ids, healed
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.data.placing.scene import PlacedDefect, Scene, Skipped, plan_scene
from guided_diffusion.data.placing.sources import LabelMaps, PlacementsFile, Region
from guided_diffusion.data.scan.good_images import list_upright
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.dataset import scan_split
from guided_diffusion.pipelines.holes import Hole
from guided_diffusion.pipelines.inpainting import reduced_label
from guided_diffusion.pipelines.masks import find_masks
from guided_diffusion.pipelines.placing.good_images import (
    check_beside_training,
    check_good_images,
    header_size,
    may_be_transparent,
)
from guided_diffusion.pipelines.placing.pasting import Patches, pasted, training_patches
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.samples.manifest import MaskLineage, file_digest, joined_lineage


class Finished(NamedTuple):
    """How an image is to look when it is painted."""

    label: NDArray[np.integer]  # [H, W] class ids
    holes: Sequence[Hole]
    defects: Sequence[PlacedDefect]  # one for each hole
    skipped: Sequence[Skipped]
    kept: NDArray[np.bool_] | None = None  # [H, W] pixels that no hole reaches


@dataclass(frozen=True)
class PlacePlan:
    """The good images of a run and what is done to them."""

    images: tuple[GoodImage, ...]
    inputs: str
    """A digest of everything but the images and the options that decides about it."""
    finished: Callable[[GoodImage, NativeImage, int], Finished]
    """(good image, what its file holds, number of the sample) -> how it is to look."""
    notes: tuple[str, ...] = ()
    """Lines to be printed once."""
    lineages: Mapping[str, MaskLineage] = field(default_factory=dict)
    """What the masks of new shapes were made of, by their names."""
    patch_of: Patches | None = None
    """The pixels of training defects, where these are pasted."""

    def pasted(
        self, good: NativeImage, defects: Sequence[PlacedDefect], name: str, blend: Blend = "match"
    ) -> NativeImage | None:
        """Return a good image with the training defects pasted into it; None where their pixels are not used."""
        if self.patch_of is None:
            return None
        return NativeImage(pasted(good, defects, self.patch_of, name, blend), good.alpha, good.low, good.high)

    def lineage_of(self, defects: Sequence[PlacedDefect]) -> MaskLineage | None:
        """Return what the masks of an image's defects were made of; None for shapes of the dataset itself."""
        names = dict.fromkeys(defect.source.rpartition("#")[0] for defect in defects)
        return joined_lineage([self.lineages[name] for name in names if name in self.lineages])


def painting_misfit(checkpoint: Checkpoint, trained: TrainedConfig, *, erases: bool = False) -> str:
    """Return why a network paints no defects into images, or (erases) not over them, and what to do; "" if it does."""
    if checkpoint.is_bare:
        return "bare weights, which do not say what mask values mean: use a run folder or a checkpoint"
    if get_mode(trained.source.dataset_mode).masks is None:
        return "trained on images alone, which do not say what defects are: use one trained on pairs"
    if trained.generation.makes_masks:
        makes = trained.generation.generates
        return f"trained with generates {makes}, so it fills no holes: train one of images, with inpaint true"
    if trained.latents.latent is not None:
        return "a network of latents, which fills no holes: train one of pixels (latent null), with inpaint true"
    if not trained.model.inpaint:
        return "a network that fills no holes: train or finetune one with inpaint true and resize window"
    if not erases and trained.model.condition != "mask":
        return f"trained with condition {trained.model.condition}, so it paints no class: train one of masks"
    resize = options_of_checkpoint(checkpoint).geometry.resize  # whatever this action is to do
    return "" if resize == "window" else f'trained with resize {resize}: train it with resize "window"'


def plan_placing(
    config: ScenesConfig, trained: TrainedConfig, encoding: LabelEncoding, training: TrainingDefects | None = None
) -> PlacePlan:
    """Read the training masks, label maps or placements that `config` names, and list the good images.

    training: the training split, where it was read already. Raises UserError for what is missing or contradicts the
    images.
    """
    if config.placing.bank_dir:
        training = read_shapes(config, trained, encoding)
    elif training is None and config.source.data_dir:
        training = read_training(config, trained, encoding)
    bank, inputs = (None, []) if training is None else (training.bank, list(training.digests))
    images = list_upright(config.good_dir, trained.source.exif, () if training is None else training.pairs)
    source = _sources(config, trained, encoding, bank, images)
    base, view = OrdinaryClasses(trained, encoding), _View(trained, encoding)
    notes = check_good_images(source.images, trained, source.files, has_network=config.has_network) + source.notes
    if training is not None:
        defective = {part.name for part in training.bank.parts}
        with_defects = [pair for pair in training.pairs if pair.stem in defective]
        notes += check_beside_training(source.images, with_defects, config, trained.geometry.image_range)
    masks = ((image.stem, image.mask) for image in source.images if image.mask and "://" not in image.mask)
    inputs += [_named(stem, file_digest(mask)) for stem, mask in masks]

    def finished(good: GoodImage, image: NativeImage, number: int) -> Finished:
        label, visible = base.of(good, image.size), None if image.alpha is None else image.alpha > 0
        planned = source.scene(good, label, visible, _generator(config.seed, number))
        placements, skipped = [], list(planned.skipped)
        for defect in planned.placements:
            if visible is not None:
                defect = replace(defect, mask=defect.mask & visible[defect.box.slices])
                if not defect.mask.any():
                    skipped.append(Skipped(defect.class_id, "on transparent pixels"))
                    continue
            before = label[defect.box.slices].copy()
            label[defect.box.slices][defect.mask] = defect.class_id
            if view.shows(label, defect):
                placements.append(defect)
            else:
                label[defect.box.slices] = before
                skipped.append(Skipped(defect.class_id, "too thin for the scale of the model"))
        return Finished(label, [Hole(defect.box, defect.mask) for defect in placements], placements, skipped)

    lineages, patch_of = ({}, None) if training is None else (training.lineages, None)
    if training is not None and config.takes_pixels:
        patch_of = training_patches(training.pairs, trained, encoding)
        inputs += [_named(pair.stem, file_digest(pair.image)) for pair in training.pairs]
    digest = joined(config, trained, inputs + source.digests)
    return PlacePlan(source.images, digest, finished, notes, lineages, patch_of)


class _Source(NamedTuple):
    """Where the defects of good images come from."""

    images: tuple[GoodImage, ...]
    """Those that get some."""
    scene: Callable[[GoodImage, NDArray[np.integer], NDArray[np.bool_] | None, np.random.Generator], Scene]
    """(good image, its label map [H, W], which may be changed, where it is not transparent, random numbers) -> its
    defects, which may reach onto transparent pixels."""
    files: Callable[[GoodImage], Iterable[str | Path | None]]
    """Masks that have to have the size of the good image."""
    digests: list[str]
    notes: tuple[str, ...] = ()


def _sources(
    config: ScenesConfig,
    trained: TrainedConfig,
    encoding: LabelEncoding,
    bank: DefectBank | None,
    images: Sequence[GoodImage],
) -> _Source:
    options = config.placing
    if options.mask_source == "dir":
        return _from_maps(options, trained, encoding, bank, images)
    assert bank is not None
    if options.mask_source == "file":
        return _from_list(options, bank, images)
    region, apart = Region(config.region), config.space_between(trained.geometry.scale)

    def scene(
        good: GoodImage, label: NDArray[np.integer], visible: NDArray[np.bool_] | None, rng: np.random.Generator
    ) -> Scene:
        size = label.shape[0], label.shape[1]
        hosts, allowed = None if good.mask is None else label, region.of(good, size)
        if visible is not None and not visible.all():
            allowed = visible if allowed is None else allowed & visible
        return plan_scene(bank, size, rng, options, apart=apart, host_map=hosts, region=allowed)

    notes = taken_for_objects([bank.names[each] for each in bank.ordinary])
    digests = [_named(name, file_digest(file)) for name, file in region.files(images)]
    return _Source(tuple(images), scene, lambda good: [region.file(good)], digests, notes)


def _from_maps(
    options: PlacingOptions,
    trained: TrainedConfig,
    encoding: LabelEncoding,
    bank: DefectBank | None,
    images: Sequence[GoodImage],
) -> _Source:
    """Return label maps as the source. Where a good image has no mask, their other classes are its ordinary ones."""
    background = get_mode(trained.source.dataset_mode).background
    defects = class_ids("defect_classes", options.defect_classes, encoding.names)
    defects = defects or (bank.defects if bank else tuple(_without_background(trained, encoding)))
    classes = class_ids("classes", options.classes, encoding.names) or defects
    maps = LabelMaps(options.placed_masks, encoding, classes)
    chosen = tuple(image for image in images if image.stem in maps.paths)
    if not chosen:
        found = f"has no label map named as one of the {len(images)} images of good_dir"
        raise DataError.of(options.placed_masks, found, f"name them as these, such as {images[0].stem}.png")

    def scene(
        good: GoodImage, label: NDArray[np.integer], visible: NDArray[np.bool_] | None, rng: np.random.Generator
    ) -> Scene:
        drawn = maps.read(good.stem, (label.shape[0], label.shape[1]), upright=good.upright)
        if good.mask is None:
            label[:] = healed(drawn, find_components(drawn, {*defects, *classes}), encoding.num_classes, background)
        return maps.scene_of(good.stem, drawn)

    digests = [_named(image.stem, file_digest(maps.paths[image.stem])) for image in chosen]
    notes = _left_out(images, chosen, "have no label map")
    if bank is None and options.classes and not options.defect_classes:
        notes += maps.taken_off([image for image in chosen if image.mask is None], set(defects) - set(classes))
    return _Source(chosen, scene, lambda good: [maps.paths[good.stem]], digests, notes)


def _from_list(options: PlacingOptions, bank: DefectBank, images: Sequence[GoodImage]) -> _Source:
    file = PlacementsFile(options.placements, bank, {image.stem for image in images})
    chosen = tuple(image for image in images if file.placements.get(image.stem))
    if not chosen:
        raise DataError.of(options.placements, "places no defect", "name good images and their defects")
    for image in chosen:
        if (size := header_size(image.image, upright=image.upright)) is not None:
            file.check_centers(image.stem, size)

    def scene(
        good: GoodImage, label: NDArray[np.integer], visible: NDArray[np.bool_] | None, rng: np.random.Generator
    ) -> Scene:
        return file.scene(good.stem, (label.shape[0], label.shape[1]), rng, edit=options.edit)

    notes = _left_out(images, chosen, "are not named in placements")
    return _Source(chosen, scene, lambda good: [], [file_digest(options.placements)], notes)


class _View:
    """What the model sees of label maps."""

    def __init__(self, trained: TrainedConfig, encoding: LabelEncoding):
        geometry = trained.geometry
        self._scale, self._by_area = geometry.scale, geometry.mask_resize != "nearest"
        self._ids = {
            "background": get_mode(trained.source.dataset_mode).background,
            "null_id": encoding.num_classes,
        }

    def shows(self, label: NDArray[np.integer], defect: PlacedDefect) -> bool:
        """Return whether a defect of a label map [H, W] is seen at the scale of the model."""
        size, box = (label.shape[0], label.shape[1]), defect.box
        reduced = reduced_size(size, self._scale)
        if reduced == size:
            return True
        (top, bottom), (left, right) = (
            (first * new // old, -(-last * new // old))
            for first, last, new, old in (
                (box.top, box.bottom, reduced[0], size[0]),
                (box.left, box.right, reduced[1], size[1]),
            )
        )
        seen = reduced_label(label, reduced, Box(top, left, bottom, right), **self._ids, by_area=self._by_area)
        return bool((seen == defect.class_id).any())


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(Stream.SCENE, seed, number))


def _named(stem: str, digest: str) -> str:
    """Return the digest of a file with its name, so that files that change places are other inputs."""
    return f"{stem}\0{digest}"


def joined(config: ScenesConfig, trained: TrainedConfig, digests: Sequence[str]) -> str:
    """Return a digest of what was read, in any order, and of the options that no line of a manifest has.

    trained: has what `config` leaves open, so that a folder is the same whether its values were given or not.
    """
    options = [config.placing.defect_classes, trained.source.ignore_label, trained.source.exif]
    return sha256(json.dumps([options, sorted(digests)]).encode()).hexdigest()[:16]


def _left_out(images: Sequence[GoodImage], chosen: Sequence[GoodImage], why: str) -> tuple[str, ...]:
    count = len(images) - len(chosen)
    return (f"{count} of {len(images)} good images {why} and are left out",) if count else ()


def taken_for_objects(names: Sequence[str]) -> tuple[str, ...]:
    """Return a line that names the classes on which defects are taken to lie, if there are any."""
    if not names:
        return ()
    what = "is taken for an object" if len(names) == 1 else "are taken for objects"
    line = f"{', '.join(names)} {what} that defects lie on; name the defect classes in defect_classes if not so"
    return (line,)


def _without_background(trained: TrainedConfig, encoding: LabelEncoding) -> list[int]:
    mode = get_mode(trained.source.dataset_mode)
    ground = {mode.background, *mode.unlabeled_classes(encoding.names)}
    return [class_id for class_id in range(encoding.num_classes) if class_id not in ground]


class TrainingDefects(NamedTuple):
    """The training split, its defects, and digests of its masks with their names."""

    pairs: tuple[Pair, ...]
    bank: DefectBank
    digests: list[str]
    lineages: Mapping[str, MaskLineage] = {}  # of masks that were made of others, by their names


def read_training(config: ScenesConfig, trained: TrainedConfig, encoding: LabelEncoding) -> TrainingDefects:
    """Read the masks of the training split; UserError for what cannot be used, or has no defects."""
    report = scan_split(trained.source, trained.geometry, "train", encoding=encoding)
    return defects_of(report, config, trained, encoding)


def defects_of(
    report: ScanReport, config: ScenesConfig, trained: TrainedConfig, encoding: LabelEncoding
) -> TrainingDefects:
    """Read the masks of a scanned training split; UserError for what cannot be used, or has no defects."""
    report.raise_if_fatal()
    bank = _bank_of(report.pairs, config, trained, encoding)
    prints = zip(report.pairs, report.prints, strict=True)
    digests = [_named(pair.stem, each.mask.hex()) for pair, each in prints if each is not None]
    return TrainingDefects(report.pairs, bank, digests)


def read_shapes(config: ScenesConfig, trained: TrainedConfig, encoding: LabelEncoding) -> TrainingDefects:
    """Read the masks of `bank_dir`, and what they were made of; UserError as `read_training`."""
    found = find_masks(trained.source, trained.geometry, mask_dir=config.placing.bank_dir, encoding=encoding)
    bank = _bank_of(found.entries, config, trained, found.encoding)
    lineages = {entry.stem: found.lineages[entry.mask] for entry in found.entries if entry.mask in found.lineages}
    digests = [_named(entry.stem, file_digest(entry.mask)) for entry in found.entries]
    return TrainingDefects((), bank, digests, lineages)


def _bank_of(
    entries: Sequence[Pair | MaskEntry], config: ScenesConfig, trained: TrainedConfig, encoding: LabelEncoding
) -> DefectBank:
    mode = get_mode(trained.source.dataset_mode)
    masks = ((entry.stem, _visible_label(entry, encoding)) for entry in entries)
    unlabeled = mode.unlabeled_classes(encoding.names)
    return DefectBank.build(masks, encoding.names, config.placing, background=mode.background, unlabeled=unlabeled)


def _visible_label(entry: Pair | MaskEntry, encoding: LabelEncoding) -> NDArray[np.integer]:
    """Return the class ids [H, W] of a mask; transparent pixels of its image show no class."""
    label = read_mask(entry.mask, encoding, upright=entry.upright).numpy()
    if isinstance(entry, MaskEntry) or not may_be_transparent(entry.image):
        return label
    _, alpha = color_and_alpha(open_image(entry.image, upright=entry.upright), entry.image)
    return label if alpha is None else np.where(alpha > 0, label, encoding.num_classes).astype(label.dtype)


class OrdinaryClasses:
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
