"""From paths to training examples: decoding, joint transform, cache of decoded pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from guided_diffusion.data.augmentation import Augmentation, AugmentedPlacement
from guided_diffusion.data.condition_makers import (
    ConditionMaker,
    EdgeSource,
    ExampleKey,
    MaskMaker,
    edges_of,
    read_edge_source,
)
from guided_diffusion.data.files import check_sizes, open_image, open_mask
from guided_diffusion.data.holes import HoleMaker
from guided_diffusion.data.intensity import ImageRange, eight_bits, over_black
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import GoodImage, MaskEntry, Pair
from guided_diffusion.data.transforms import JointTransform, Placement, Target
from guided_diffusion.data.windows import WindowPlan, numbers, target_in
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.memory import available_memory
from guided_diffusion.runtime.seeding import Stream, derive_seed

_CACHE_SHARE = 1 / 4  # of the memory that is available
_MEASURED_IMAGES = 16


class _Decoded(NamedTuple):
    """A picture at full size."""

    image: Tensor
    label: Tensor | None  # None: its condition is not made of it
    source: Any  # what its `ConditionMaker` read


def read_image(
    path: str | Path, channels: Literal[1, 3], *, upright: bool = True, image_range: ImageRange = "auto"
) -> Tensor:
    """Return the picture as uint8 [channels, H, W]; DataError if it cannot be decoded.

    upright: turn it as its EXIF orientation says.
    """
    return image_tensor(open_image(path, upright=upright), channels, str(path), image_range)


def image_tensor(image: Image.Image, channels: Literal[1, 3], source: str, image_range: ImageRange = "auto") -> Tensor:
    """Return a decoded picture as uint8 [channels, H, W]; DataError naming `source` if it has more than 16 bits.

    Values are scaled as `image_range` says, then transparent pixels are composited over black and colors become gray by
    ITU-R 601 luma.
    """
    mode = "L" if channels == 1 else "RGB"
    image = eight_bits(image, image_range, source)
    image = over_black(image.convert("RGB") if image.mode == "LAB" else image)  # PIL makes no other mode of LAB
    array = np.asarray(image.convert(mode))
    planes = array[None] if channels == 1 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))


def read_mask(path: str | Path, encoding: LabelEncoding, *, upright: bool = True) -> Tensor:
    """Return the class ids of a mask, [H, W] in `0..num_classes`, uint8 (int32 above 255 classes).

    Raises DataError if the file cannot be decoded or has values of unknown meaning.
    """
    label = encoding.decode(open_mask(path, upright=upright), str(path))
    return torch.from_numpy(label if label.dtype == np.uint8 else label.astype(np.int32))


class PlacedCondition(NamedTuple):
    """The condition of one mask for sampling."""

    label: Tensor  # [H, W] class ids
    edge: Tensor | None  # [H, W] booleans
    inside: Tensor | None  # [H, W] booleans: not the border that a small picture gets; None: all is inside


def read_condition(
    entry: Pair | MaskEntry,
    encoding: LabelEncoding,
    transform: JointTransform,
    *,
    with_edges: bool = False,
    window: torch.Generator | None = None,
) -> PlacedCondition:
    """Return the condition of one mask for sampling, with `edge` if `with_edges` and `inside` for windows.

    transform: without augmentation (`train=False`). window: draws which component a window shows, None: the largest.
    """
    assert not transform.train
    label = read_mask(entry.mask, encoding, upright=entry.upright)
    source = EdgeSource(read_edge_source(entry, label), entry.instance is not None) if with_edges else None
    height, width = label.shape
    placement = transform.place((height, width), target=_shown(label, encoding, transform, window))
    placed = _compact(placement.label(label, encoding.num_classes))
    edge = None if source is None else edges_of(placement, source, placed)
    inside = placement.inside() if transform.resize == "window" else None
    return PlacedCondition(placed, edge, None if inside is None or inside.all() else inside)


def foreground_classes(num_classes: int, background: int) -> tuple[int, ...]:
    """Return the classes that windows and holes are laid on: all but the background."""
    return tuple(class_id for class_id in range(num_classes) if class_id != background)


def _shown(
    label: Tensor, encoding: LabelEncoding, transform: JointTransform, generator: torch.Generator | None = None
) -> Target | None:
    """Return what a window of one label map shows where none is drawn from a plan; None for other transforms."""
    if transform.resize != "window":
        return None
    classes = foreground_classes(encoding.num_classes, transform.background)
    return target_in(label, classes, None if generator is None else numbers(generator).__next__)


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Pairs, then good images, as training examples; an example depends on (seed, epoch, index) alone.

    good_images: without a mask, their label is the background everywhere. windows: where windows lie; then an index
        does not choose the picture, it is a number in the epoch. holes: examples have a hole to fill.
    conditions: what examples have of a condition; None: label maps, `with_edges` if that is set.
    augment: probability of each `Augmentation` beside those of `transform`.
    cache_images: keep decoded pictures in memory; "auto": if they fit in a quarter of the available memory, once for
        each of `num_workers` processes.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        encoding: LabelEncoding,
        transform: JointTransform,
        *,
        image_channels: Literal[1, 3] = 3,
        image_range: ImageRange = "auto",
        seed: int = 0,
        cache_images: Literal["auto"] | bool = "auto",
        num_workers: int = 0,
        with_edges: bool = False,
        good_images: Sequence[GoodImage] = (),
        windows: WindowPlan | None = None,
        holes: HoleMaker | None = None,
        augment: float = 0.0,
        conditions: ConditionMaker | None = None,
    ):
        self.pairs = tuple(pairs)
        self.good_images = tuple(good_images)
        self.windows = windows
        self.holes = holes
        self.augment = augment
        self.encoding = encoding
        self.transform = transform
        self.image_channels: Literal[1, 3] = image_channels
        self.image_range: ImageRange = image_range
        self.seed = seed
        self.with_edges = with_edges
        foreground = foreground_classes(encoding.num_classes, transform.background)
        self.conditions: ConditionMaker = conditions or MaskMaker(encoding.num_classes, foreground, with_edges)
        self.cache_note = ""
        """What is said where "auto" keeps no pictures, as then the files are opened again for every example."""
        if cache_images == "auto":
            size = decoded_bytes(self.pairs, image_channels, with_edges=with_edges) * max(1, num_workers)
            size = round(size * len(self) / max(1, len(self.pairs)))  # good images are as large as the others
            free = available_memory()
            cache_images = size <= free * _CACHE_SHARE
            if not cache_images:
                processes = f"{max(1, num_workers)} loading process{'es' * (num_workers > 1)}"
                self.cache_note = (
                    f"every example opens its files again: decoded images take {size / 2**30:.1f} GiB in {processes}, "
                    f"over a quarter of the {free / 2**30:.1f} GiB that are free; smaller files or fewer num_workers "
                    "make that less, and cache_images true keeps them anyway"
                )
        self._cache: dict[int, _Decoded] | None = {} if cache_images else None

    @property
    def caches(self) -> bool:
        """Whether decoded pictures are kept in memory."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.pairs) + len(self.good_images)

    def __getitem__(self, key: ExampleKey) -> dict[str, Any]:
        """Return `image`, float32 [image_channels, H, W] in [-1, 1]; the entries of its condition, unless `conditions`
        was given `label`, [H, W] in `0..num_classes`, uint8 (int16 above 255 classes), and `edge`, if `with_edges`;
        booleans [H, W]: `inside` (not border) of windows, `hole`; `augment`, the parameters, if that is on; `index`,
        `batch_index` and `weight` of the key. Raises DataError for files that changed since they were scanned.
        """
        generator = self._generator(key)
        index, *drawn = (key.index, None, None) if self.windows is None else self.windows.draw(generator)
        image, label, source = self._decoded(index)
        target = self._target(index, label, source, drawn, generator)
        height, width = image.shape[-2:]
        placement = self.transform.place((height, width), generator if self.transform.train else None, target)
        if self.augment:
            placement = self._augmentation(key).applied(placement)
        placed = None if label is None else _compact(placement.label(label, self.encoding.num_classes))
        example: dict[str, Any] = {
            "image": self._pixels(image, placement, generator).div_(127.5).sub_(1),
            **self.conditions.entries(placed, source, placement, key),
            "index": key.index,
            "batch_index": key.batch_index,
            "weight": key.weight,
        }
        if self.transform.resize == "window":
            example["inside"] = placement.inside()
        elif isinstance(placement, AugmentedPlacement):  # the border of "pad" counts where it is where it always is
            seen = placement.inside()
            example["inside"] = seen if placement.moved else torch.ones_like(seen)
        if isinstance(placement, AugmentedPlacement):
            example["augment"] = placement.parameters()
        if self.holes is not None:
            assert placed is not None, "holes lie on what masks show"
            if not self.transform.train:  # the same hole every time
                generator.manual_seed(derive_seed(Stream.HOLE, self.seed, key.index))
            example["hole"] = self.holes(placed, numbers(generator))
        return example

    def _target(
        self, index: int, label: Tensor | None, source: Any, drawn: Sequence[Any], generator: torch.Generator
    ) -> Target | None:
        """Return what a window shows of a picture: a component `drawn` (class, box) of it, if any; None: anything."""
        class_id, box = drawn
        if self.transform.resize != "window" or (self.windows is not None and box is None):
            return None
        shown = None if box is None else (class_id, box)
        target = self.conditions.window_target(label, source, shown, numbers(generator).__next__)
        if target is None and shown is not None:
            found = f"has no {self.encoding.names[class_id]!r} where it had some when training began"
            raise DataError.of(self.pairs[index].mask, found, "start again, and leave the files as they are")
        return target

    def picture(self, key: ExampleKey) -> Pair | GoodImage:
        """Return what an example shows."""
        index = key.index if self.windows is None else self.windows.draw(self._generator(key))[0]
        return self.pairs[index] if index < len(self.pairs) else self.good_images[index - len(self.pairs)]

    def _generator(self, key: ExampleKey) -> torch.Generator:
        generator = torch.Generator()
        if self.transform.train:
            generator.manual_seed(derive_seed(Stream.AUGMENT, self.seed, key.epoch, key.index))
        return generator

    def _augmentation(self, key: ExampleKey) -> Augmentation:
        # Of its own seed: what else is drawn stays the same.
        generator = torch.Generator().manual_seed(derive_seed(Stream.AUGMENT, self.seed, key.epoch, key.index, 1))
        height, width = self.transform.image_size
        return Augmentation.draw(self.augment, generator, square=height == width)

    def _pixels(self, image: Tensor, placement: Placement | AugmentedPlacement, generator: torch.Generator) -> Tensor:
        """Return the gray levels of a placed picture, float, brightness changed; a border stays black."""
        placed = placement.image(image).float()
        pixels = self.transform.brightened(placed, generator)
        if isinstance(placement, AugmentedPlacement):
            pixels = placement.augmentation.brightened(pixels)
        return placed if pixels is placed else torch.where(placement.inside(), pixels, placed)

    def _decoded(self, index: int) -> _Decoded:
        """Return image, label and what its condition is made of at full size."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        entry = self.pairs[index] if index < len(self.pairs) else self.good_images[index - len(self.pairs)]
        image = read_image(entry.image, self.image_channels, upright=entry.upright, image_range=self.image_range)
        height, width = image.shape[-2:]
        label = None
        if entry.mask is not None:
            label = read_mask(entry.mask, self.encoding, upright=entry.upright)
            check_sizes(entry.image, (height, width), entry.mask, label.shape)
        elif self.conditions.reads_labels:
            kind = torch.uint8 if self.encoding.num_classes < 256 else torch.int32
            label = torch.full((height, width), self.transform.background, dtype=kind)
        return self._keep(index, _Decoded(image, label, self.conditions.read(entry, label, (height, width))))

    def _keep(self, index: int, decoded: _Decoded) -> _Decoded:
        if self._cache is not None:
            self._cache[index] = decoded
        return decoded


def decoded_bytes(pairs: Sequence[Pair], channels: int, *, with_edges: bool = False) -> int:
    """Estimate the bytes of all decoded pairs from the sizes of a few of them, spread over the dataset."""
    if not pairs:
        return 0
    step = max(1, len(pairs) // _MEASURED_IMAGES)
    chosen = pairs[::step][:_MEASURED_IMAGES]
    measured = [(open_image(pair.image) if pair.mask is None else open_mask(pair.mask)).size for pair in chosen]
    pixels = sum(width * height for width, height in measured) / len(measured)
    return round(pixels * len(pairs) * (channels + 1 + 4 * with_edges))


def _compact(label: Tensor) -> Tensor:
    return label if label.dtype == torch.uint8 else label.to(torch.int16)
