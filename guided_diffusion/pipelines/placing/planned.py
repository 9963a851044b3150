"""The pairs that `place` is to make, as they are planned: good images, and the training defects that go into them.

This needs no network, so that copies of the defects can be pasted at the same places without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data.datasets import read_image, read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair, index_pairs
from guided_diffusion.data.scan.good_images import as_turned
from guided_diffusion.pipelines.placing.pasting import Patches, training_patches
from guided_diffusion.pipelines.placing.plan import Finished, PlacePlan
from guided_diffusion.samples.plan import PlannedSample, plan_samples


@dataclass(frozen=True, eq=False)
class PlannedScene:
    """One pair: its name, the good image, and which defects it gets.

    turn: even and odd numbers alternate from pair to pair, and from use to use of a good image.
    """

    name: str
    turn: int
    good: NativeImage
    finished: Finished


@dataclass(frozen=True, eq=False)
class PlannedPairs:
    """What `place` makes by a configuration, before anything is painted."""

    config: PlaceConfig
    trained: TrainedConfig
    encoding: LabelEncoding
    plan: PlacePlan

    @cached_property
    def planned(self) -> list[PlannedSample]:
        return plan_samples(self.plan.images, self.config.num_samples, self.config.seed)

    def __len__(self) -> int:
        return len(self.planned)

    def classes(self) -> list[list[str]]:
        """Return the names of the classes of each pair's defects."""
        names = self.encoding.names
        return [[names[defect.class_id] for defect in scene.finished.defects] for scene in self.scenes()]

    def scenes(self) -> Iterator[PlannedScene]:
        """Yield the pairs in their order."""
        return map(self.scene, range(len(self)))

    def scene(self, index: int) -> PlannedScene:
        """Return one pair."""
        planned = self.planned[index]
        good = self._native(planned.source.image, upright=planned.source.upright)
        finished = self.plan.finished(planned.source, good, index)
        turn = index % len(self.plan.images) + planned.repeat
        return PlannedScene(planned.name, turn, good, finished)

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
