"""The pairs that `place` has written, planned once more: what was painted where, and of which training defect.

A folder of `place` has images and masks, but not how the mask of a defect was made of that of a training defect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.config.load import load_config
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.inpainting import PaintSettings
from guided_diffusion.pipelines.load import encoding_of_checkpoint
from guided_diffusion.pipelines.placing.erasing import plan_erasing
from guided_diffusion.pipelines.placing.plan import plan_placing
from guided_diffusion.pipelines.placing.planned import PlannedPairs, PlannedScene
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import ManifestLine, file_digest
from guided_diffusion.samples.reader import SampleFolder, find_samples

_CHANGED = "run place again, with the data that are there now"


@dataclass(frozen=True, eq=False)
class PlacedScene(PlannedScene):
    """One pair: `good` before and `result` after painting, the latter like `good.pixels`, and what was painted."""

    line: ManifestLine
    result: NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class PlacedFolder(PlannedPairs):
    """A finished folder of `place` with the plan that it was made by."""

    samples: SampleFolder
    checkpoint: Checkpoint

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
        encoding = encoding.ignoring(config.source.ignore_label)
        plan = (plan_erasing if config.erase else plan_placing)(config, trained, encoding)
        if any(line.inputs != plan.inputs for line in samples.lines.values()):
            raise DataError.of(samples.folder, "the masks that its defects come from have changed", _CHANGED)
        return cls(config, trained, encoding, plan, samples, checkpoint)

    @property
    def settings(self) -> PaintSettings:
        return PaintSettings.of(self.config, self.trained, self.encoding.num_classes)

    @property
    def lines(self) -> list[ManifestLine]:
        """The lines of the pairs in their order."""
        return sorted(self.samples.lines.values(), key=lambda line: line.index)

    def __len__(self) -> int:
        return len(self.samples.lines)

    def classes(self) -> list[list[str]]:
        """Return the names of the classes of each pair's defects, as they were recorded."""
        return [[defect.name for defect in line.defects or ()] for line in self.lines]

    def scenes(self) -> Iterator[PlacedScene]:
        """Yield the pairs in their order; DataError where one is not what the plan says."""
        return map(self._scene, self.lines)

    def scene(self, index: int) -> PlacedScene:
        """Return one pair; DataError where it is not what the plan says."""
        return self._scene(self.lines[index])

    def _scene(self, line: ManifestLine) -> PlacedScene:
        source, mask = self.planned[line.index].source, self.samples.folder / line.mask
        if file_digest(source.image) != line.good_digest:
            raise DataError.of(source.image, "is not the image that was painted into", _CHANGED)
        scene = super().scene(line.index)
        if not np.array_equal(read_mask(mask, self.encoding).numpy(), scene.finished.label):
            raise DataError.of(mask, "has other defects than place would paint now", _CHANGED)
        result = self._native(self.samples.folder / line.image).pixels
        if result.shape != scene.good.pixels.shape or result.dtype != scene.good.pixels.dtype:
            found = f"has another size or depth than {source.image}"
            raise DataError.of(self.samples.folder / line.image, found, _CHANGED)
        return PlacedScene(scene.name, scene.turn, scene.good, scene.finished, line, result)
