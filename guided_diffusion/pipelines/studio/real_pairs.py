"""The real pairs of a dataset as the network sees them, and the shelf of the parts of their masks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.data.area import reduced_size
from guided_diffusion.data.components import Box, Component, find_components
from guided_diffusion.data.condition_makers import ExampleKey
from guided_diffusion.data.datasets import SegmentationDataset, read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair, index_pairs
from guided_diffusion.data.scan.good_images import as_turned
from guided_diffusion.data.visualize import Pixels, evenly_spaced, quantize
from guided_diffusion.pipelines.dataset import plain_transform, shown_dataset
from guided_diffusion.pipelines.inpainting import reduced_label
from guided_diffusion.pipelines.studio.first_reads import FirstReads
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import MaskOrigin

SPLITS = ("train", "test")
MOST_MASKS, MOST_PARTS = 2000, 2000
"""Of the shelf: masks that are read, evenly spread, and parts that are kept."""
_NAMED = 3  # masks that cannot be read
_LARGEST, _SMALLEST = 1 / 3, 4  # share of an image above which a class is ground, px below which a part is a speck


class RealPairs:
    """The pairs of both splits, read when they are asked for."""

    def __init__(self, trained: TrainedConfig, encoding: LabelEncoding, data_dir: str):
        """Index the files of `data_dir`, "" for none; nothing is read. `problems` says what is missing."""
        self._trained, self._encoding = trained, encoding
        self._mode = get_mode(trained.source.dataset_mode)
        self.pairs: dict[str, tuple[Pair, ...]] = {}
        self.problems: list[str] = []
        self.reads = FirstReads()
        self._datasets: dict[str, SegmentationDataset] = {}
        for split in SPLITS if data_dir and self._mode.masks is not None else ():
            self._index(data_dir, split)
        self._example = lru_cache(maxsize=64)(self._read)

    def _index(self, data_dir: str, split: str) -> None:
        geometry = self._trained.geometry
        found, problems = index_pairs(data_dir, self._mode, split, with_instances=not geometry.no_instance)
        if not found:
            # A folder that both splits should be in is missing once.
            self.problems += [problem.line for problem in problems[:1] if problem.line not in self.problems]
            return
        self.pairs[split] = tuple(as_turned(pair, self._trained.source.exif) for pair in found)
        # A cache would open files now, and one that is damaged keep the studio from opening.
        shown = shown_dataset(self.pairs[split], self._encoding, geometry, self._mode, may_cache=False)
        self._datasets[split] = shown

    def _read(self, split: str, index: int) -> tuple[Pixels, NDArray[np.integer]]:
        pair = self.pairs[split][index]
        assert pair.mask is not None
        with self.reads.of(pair.image, pair.mask):
            example = self._datasets[split][ExampleKey(0, index, 0, 1.0)]
        return quantize(example["image"].numpy()[None])[0], example["label"].numpy().astype(self._encoding.dtype)

    def image(self, split: str, index: int) -> Pixels:
        """Return the image of a pair as the network sees it, uint8 [H, W, C]; DataError for a damaged file."""
        return self._example(split, index)[0]

    def label(self, split: str, index: int) -> NDArray[np.integer]:
        """Return the class ids [H, W] of a pair as the network sees them; DataError for a damaged file."""
        return self._example(split, index)[1]

    def classes(self, split: str, index: int) -> list[int] | None:
        """Return the classes that a mask shows; None for a pair that cannot be read."""
        try:
            shown = np.unique(self.label(split, index)).tolist()
        except DataError:
            return None
        return [class_id for class_id in shown if class_id < self._encoding.num_classes]

    def whole_label(self, pair: Pair) -> NDArray[np.integer]:
        """Return all of a mask, [H, W] class ids at the scale of the network: of windows the whole image."""
        geometry = self._trained.geometry
        label = read_mask(pair.mask, self._encoding, upright=pair.upright)
        size = (label.shape[0], label.shape[1])
        if geometry.resize != "window":
            placement = plain_transform(geometry, self._mode).place(size)
            return placement.label(label, self._encoding.num_classes).numpy()
        reduced, by_area = reduced_size(size, geometry.scale), geometry.mask_resize != "nearest"
        ids = {"background": self._mode.background, "null_id": self._encoding.num_classes}
        return reduced_label(label.numpy(), reduced, Box(0, 0, *reduced), **ids, by_area=by_area).numpy()


@dataclass(frozen=True)
class ShelfPart:
    """A connected part of a training mask."""

    class_id: int
    mask: NDArray[np.bool_]
    """[h, w] of its box."""
    pair: int
    """The number of the training pair."""


class Shelf:
    """The parts of the training masks; they are found one mask after the other, by `fill`."""

    def __init__(self, pairs: RealPairs, encoding: LabelEncoding, background: int):
        self._pairs, self._encoding, self._background = pairs, encoding, background
        self._parts: list[ShelfPart] = []
        self.origins: dict[int, MaskOrigin] = {}
        """The masks that were read, by the numbers of their pairs, as the manifest records them."""

    @property
    def parts(self) -> Sequence[ShelfPart]:
        """Those that were found so far; only more are added."""
        return self._parts

    def fill(self, stopped: Callable[[], bool]) -> None:
        """Read the masks and add their parts; those that cannot be read are left out, and the first are named."""
        left_out: list[str] = []
        pairs, reads = self._pairs.pairs.get("train", ()), FirstReads()
        for index in evenly_spaced(range(len(pairs)), MOST_MASKS):
            mask = pairs[index].mask
            assert mask is not None
            if stopped() or len(self._parts) >= MOST_PARTS:
                break
            try:
                with reads.of(mask):
                    label = self._pairs.whole_label(pairs[index])
            except DataError as error:
                left_out += error.messages[:1]
                continue
            self.origins[index] = reads.origin(mask)
            self._parts += [ShelfPart(part.class_id, part.mask, index) for part in self._worth_keeping(label)]
        if len(left_out) > _NAMED:
            left_out[_NAMED:] = [f"{len(left_out) - _NAMED} more, which check names"]
        for line in left_out:
            print(f"warning: left out: {line}", file=sys.stderr, flush=True)

    def _worth_keeping(self, label: NDArray[np.integer]) -> list[Component]:
        classes, counts = np.unique(label, return_counts=True)
        kept = [
            int(class_id)
            for class_id, pixels in zip(classes, counts, strict=True)
            if class_id not in (self._background, self._encoding.num_classes) and pixels <= label.size * _LARGEST
        ]
        return [part for part in find_components(label, kept) if part.area >= _SMALLEST]
