"""The labeled images of `segment`: scanned, read, and ready for the training of pixel classifiers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from evaluations.groups import numbered
from guided_diffusion.conditions.base import Size
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.groups import groups_of, shared_group_problems
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.duplicates import Twin, shared_problems
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.tiles import Tile
from guided_diffusion.features.store import FeatureStore
from guided_diffusion.labeling.labels import PUBLISHED_MIN_REGION, resize_nearest, without_small
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.pipelines.segment.reader import ImageReader, refuse_sides
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import file_digest

_SAID = (
    ProblemKind.PALETTES,
    ProblemKind.ORIENTATION,
    ProblemKind.BACKGROUND,
    ProblemKind.TWO_MASKS,
    ProblemKind.REPEATED_IMAGE,
    ProblemKind.BINARY_VALUES,
)
"""Kinds of warnings of the scan that matter here."""


@dataclass(frozen=True)
class LabeledImages:
    """Images with a mask each.

    labels: [H, W] of each, as they are scored: class ids, and the number of classes where a pixel is ignored. digests:
    of the files of images and of masks.
    """

    pairs: tuple[Pair, ...]
    encoding: LabelEncoding
    labels: tuple[Tensor, ...]
    tiles: tuple[tuple[Tile, ...], ...]
    digests: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def classes(self) -> int:
        return self.encoding.num_classes

    @property
    def names(self) -> tuple[str, ...]:
        return self.encoding.names

    def groups(self, pattern: str | None) -> list[int]:
        """Return the number of the group of each image, see `group_pattern`; ConfigError if it matches none."""
        return numbered(groups_of(pattern, [pair.stem for pair in self.pairs]), len(self)).tolist()

    @cached_property
    def first_tiles(self) -> list[int]:
        """The number of the first tile of each image, of all in a row; then the number of tiles."""
        return np.cumsum([0, *(len(tiles) for tiles in self.tiles)]).tolist()

    @property
    def digest(self) -> str:
        """What tells the images, their masks, the meaning of these and how they are turned apart."""
        inputs = [self.encoding.to_dict(), [pair.stem for pair in self.pairs], self.digests]
        inputs += [stored] if (stored := [pair.stem for pair in self.pairs if not pair.upright]) else []
        return sha256(json.dumps(inputs).encode()).hexdigest()[:16]

    @property
    def images_with(self) -> list[int]:
        """In how many images each class is."""
        present = [label.unique().tolist() for label in self.labels]
        return [sum(index in found for found in present) for index in range(self.classes)]

    def size(self, number: int) -> Size:
        """Return the size at which an image is scored, (height, width)."""
        height, width = self.labels[number].shape
        return height, width

    def learned(self, numbers: Sequence[int], min_region: int) -> list[Tensor]:
        """Return the label map of each tile of some images; a class of fewer pixels in an image is ignored there."""
        result = []
        for number in numbers:
            label = torch.from_numpy(without_small(self.labels[number].numpy(), self.classes, min_region))
            result += [tile.cut(label, self.classes) for tile in self.tiles[number]]
        return result

    def maps(self, store: FeatureStore, number: int) -> list[ImageMaps]:
        """Return the feature maps of the tiles of an image, to be read at the pixels at which it is scored."""
        rows = range(*self.first_tiles[number : number + 2])
        return [ImageMaps(store[row], tile.box.size) for row, tile in zip(rows, self.tiles[number], strict=True)]

    def read_tiles(self, reader: ImageReader, rows: Sequence[int]) -> Tensor:
        """Return what the network takes of the tiles `rows`, numbered over all images, [N, C, H, W]."""
        numbers = np.searchsorted(self.first_tiles, rows, side="right") - 1
        parts = []
        # An image is opened once for all of its tiles that follow each other.
        for number, group in groupby(zip(numbers.tolist(), rows, strict=True), key=itemgetter(0)):
            tiles = [self.tiles[number][row - self.first_tiles[number]] for _, row in group]
            pair = self.pairs[number]
            parts.append(reader.pixels(pair.image, tiles, upright=pair.upright))
        return torch.cat(parts)

    def tile_names(self) -> list[str]:
        """Return what tells each tile apart: the digest of its image, whether that is turned, and its number there."""
        return [
            f"{digest}/{number}" if pair.upright else f"{digest}/stored/{number}"
            for pair, (digest, _), tiles in zip(self.pairs, self.digests, self.tiles, strict=True)
            for number in range(len(tiles))
        ]


def open_labeled(config: SegmentConfig, reader: ImageReader, *, progress: bool) -> LabeledImages:
    """Scan and read the labeled images; UserError with a line for everything that cannot be used."""
    found = _read(_scan(config, reader, progress=progress), reader, progress=progress)
    if config.labels.flip:
        refuse_sides(found.names, config.source)
    _refuse_absent(config, found, progress=progress)
    return found


def open_test(config: SegmentConfig, reader: ImageReader, encoding: LabelEncoding, *, progress: bool) -> LabeledImages:
    """Scan and read the test images, whose masks are those of `encoding`; UserError as in `open_labeled`."""
    return _read(_scan(config, reader, encoding, progress=progress), reader, progress=progress)


def shared_with_labeled(test: LabeledImages, labeled: LabeledImages, pattern: str | None) -> list[str]:
    """Return warnings of test images that are labeled ones, byte by byte, or show their objects (`group_pattern`)."""
    known = {image: number for number, (image, _) in enumerate(labeled.digests)}
    twins = []
    for pair, (image, mask) in zip(test.pairs, test.digests, strict=True):
        if (number := known.get(image)) is not None:
            twins.append(Twin(pair, labeled.pairs[number], "file", mask != labeled.digests[number][1]))
    problems = shared_problems(twins, len(test))
    return [*problem_lines(problems), *problem_lines(shared_group_problems(pattern, test.pairs, labeled.pairs))]


def _read(report: ScanReport, reader: ImageReader, *, progress: bool) -> LabeledImages:
    encoding = report.raise_if_fatal()
    if progress:
        for line in problem_lines(problem for problem in report.warnings if problem.kind in _SAID):
            print(f"warning: {line}")
    pairs = tuple(report.pairs)
    labels = tuple(_label(pair, encoding, reader) for pair in pairs)
    tiles = tuple(tuple(reader.tiles((label.shape[0], label.shape[1]))) for label in labels)
    digests = tuple((file_digest(pair.image), file_digest(pair.mask)) for pair in pairs)
    return LabeledImages(pairs, encoding, labels, tiles, digests)


def min_region_of(config: SegmentConfig) -> int:
    """Return the pixels below which a class is not learned in an image."""
    if config.labels.min_region is not None:
        return config.labels.min_region
    return PUBLISHED_MIN_REGION if config.classifier.recipe == "published" else 0


def _scan(
    config: SegmentConfig, reader: ImageReader, test_of: LabelEncoding | None = None, *, progress: bool
) -> ScanReport:
    """Scan the labeled images, or with `test_of`, the encoding of these, the test split."""
    source, test = config.source, test_of is not None
    return scan_dataset(
        source.data_dir,
        get_mode(source.dataset_mode),
        "test" if test else config.data_split,
        num_classes=source.num_classes,
        image_channels=reader.channels,
        image_range=reader.image_range,
        ignore_label=source.ignore_label,
        exif=source.exif,
        with_instances=False,
        first=config.max_test if test else config.max_labeled,
        encoding=test_of,
        progress=progress,
    )


def _label(pair: Pair, encoding: LabelEncoding, reader: ImageReader) -> Tensor:
    label = read_mask(pair.mask, encoding, upright=pair.upright)
    if reader.as_published:
        label = torch.from_numpy(np.ascontiguousarray(resize_nearest(label.numpy(), reader.extractor.image_size)))
    return label


def _refuse_absent(config: SegmentConfig, found: LabeledImages, *, progress: bool) -> None:
    absent = [name for name, count in zip(found.names, found.images_with, strict=True) if count == 0]
    if not absent:
        return
    shown = ", ".join(map(repr, absent[:8])) + (f" and {len(absent) - 8} others" if len(absent) > 8 else "")
    if not config.labels.allow_absent:
        kind = "class" if len(absent) == 1 else "classes"
        remedy = "label some, take them out of classes.json, or set allow_absent to true"
        raise DataError.of(config.source.data_dir, f"no labeled image has the {kind} {shown}", remedy)
    if progress:
        print(f"warning: no labeled image has {shown}: never predicted")
