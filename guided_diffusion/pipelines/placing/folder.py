"""The pairs that `place` has written, planned once more: what was painted where, and of which training defect.

A folder of `place` has images and masks, but not how the mask of a defect was made of that of a training defect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.config.load import load_config
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data.datasets import read_image, read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair, index_pairs
from guided_diffusion.data.scan.good_images import as_turned
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.inpainting import PaintSettings
from guided_diffusion.pipelines.load import encoding_of_checkpoint
from guided_diffusion.pipelines.placing.erasing import plan_erasing
from guided_diffusion.pipelines.placing.pasting import Patches, training_patches
from guided_diffusion.pipelines.placing.plan import Finished, PlacePlan, plan_placing
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import ManifestLine, file_digest
from guided_diffusion.samples.plan import PlannedSample, plan_samples
from guided_diffusion.samples.reader import SampleFolder, find_samples

_CHANGED = "run place again, with the data that are there now"


@dataclass(frozen=True, eq=False)
class PlacedScene:
    """One pair: `good` before and `result` after painting, the latter like `good.pixels`, and what was painted.

    turn: even and odd numbers alternate from pair to pair, and from use to use of a good image.
    """

    line: ManifestLine
    turn: int
    good: NativeImage
    result: NDArray[np.integer]
    finished: Finished

    @property
    def name(self) -> str:
        """The name of the pair, without folder and extension."""
        return self.line.image.removeprefix("images/").removesuffix(".png")


@dataclass(frozen=True, eq=False)
class PlacedFolder:
    """A finished folder of `place` with the plan that it was made by."""

    samples: SampleFolder
    config: PlaceConfig
    checkpoint: Checkpoint
    trained: TrainedConfig
    encoding: LabelEncoding
    plan: PlacePlan

    @classmethod
    def open(cls, directory: str | Path, **changes: str) -> PlacedFolder:
        """Plan a folder of `place` again; `changes`: keys of its configuration whose paths have changed.

        Raises UserError for a folder that is not of `place`, and for what is missing or has changed since.
        """
        samples = find_samples(directory)
        if not samples.has_native_depth or not samples.config:
            found = "has no manifest.jsonl and config.json of place"
            raise DataError.of(samples.folder, found, "give the results_path of place")
        config = load_config("place", {**samples.config, **{key: value for key, value in changes.items() if value}})
        checkpoint = load_checkpoint(find_checkpoint(config.weights.model_path, prefer=BEST))
        trained, encoding = trained_config(checkpoint, config), encoding_of_checkpoint(checkpoint)
        assert encoding is not None
        encoding = encoding if config.source.ignore_label is None else encoding.ignoring(config.source.ignore_label)
        plan = (plan_erasing if config.erase else plan_placing)(config, trained, encoding)
        if any(line.inputs != plan.inputs for line in samples.lines.values()):
            raise DataError.of(samples.folder, "the masks that its defects come from have changed", _CHANGED)
        return cls(samples, config, checkpoint, trained, encoding, plan)

    @property
    def settings(self) -> PaintSettings:
        return PaintSettings.of(self.config, self.trained, self.encoding.num_classes)

    @property
    def lines(self) -> list[ManifestLine]:
        """The lines of the pairs in their order."""
        return sorted(self.samples.lines.values(), key=lambda line: line.index)

    def scenes(self) -> Iterator[PlacedScene]:
        """Yield the pairs in their order; DataError where one is not what the plan says."""
        return map(self.scene, self.lines)

    @cached_property
    def _planned(self) -> list[PlannedSample]:
        return plan_samples(self.plan.images, self.config.num_samples, self.config.seed)

    def scene(self, line: ManifestLine) -> PlacedScene:
        """Return one pair; DataError where it is not what the plan says."""
        planned, mask = self._planned[line.index], self.samples.folder / line.mask
        source = planned.source
        good = self._native(source.image, upright=source.upright)
        if file_digest(source.image) != line.good_digest:
            raise DataError.of(source.image, "is not the image that was painted into", _CHANGED)
        finished = self.plan.finished(source, good, line.index)
        if not np.array_equal(read_mask(mask, self.encoding).numpy(), finished.label):
            raise DataError.of(mask, "has other defects than place would paint now", _CHANGED)
        result = self._native(self.samples.folder / line.image).pixels
        if result.shape != good.pixels.shape or result.dtype != good.pixels.dtype:
            found = f"has another size or depth than {source.image}"
            raise DataError.of(self.samples.folder / line.image, found, _CHANGED)
        turn = line.index % len(self.plan.images) + planned.repeat
        return PlacedScene(line, turn, good, result, finished)

    def _native(self, path: str | Path, *, upright: bool = True) -> NativeImage:
        geometry = self.trained.geometry
        return NativeImage.read(path, geometry.image_channels, geometry.image_range, upright=upright)

    def pairs(self, split: str) -> dict[str, Pair]:
        """Return the pairs of a split of the real dataset by their stems; none where it has no such split."""
        mode, source = get_mode(self.trained.source.dataset_mode), self.config.source
        pairs, _ = index_pairs(source.data_dir, mode, split, with_instances=False)
        return {pair.stem: as_turned(pair, self.trained.source.exif) for pair in pairs}

    def read_pair(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Return image [H, W, C] and class ids [H, W] of a pair of the real dataset."""
        image = self.read_image(pair.image, upright=pair.upright)
        return image, read_mask(pair.mask, self.encoding, upright=pair.upright).numpy()

    def read_image(self, path: str | Path, *, upright: bool = True) -> NDArray[np.uint8]:
        """Return an image as training reads it, [H, W, C]."""
        geometry = self.trained.geometry
        image = read_image(path, geometry.image_channels, upright=upright, image_range=geometry.image_range)
        return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))

    def patches(self) -> Patches:
        """Return what gives the pixels of training defects."""
        return training_patches(self.pairs("train").values(), self.trained, self.encoding)
