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
from guided_diffusion.data.files import open_image, open_mask
from guided_diffusion.data.holes import HoleMaker
from guided_diffusion.data.intensity import ImageRange, eight_bits
from guided_diffusion.data.masks.encoding import LabelEncoding, edges_from_instances, raw_mask
from guided_diffusion.data.pairing import GoodImage, MaskEntry, Pair
from guided_diffusion.data.transforms import JointTransform, Placement, Target
from guided_diffusion.data.windows import WindowPlan, numbers, point_of, target_in
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.memory import available_memory
from guided_diffusion.runtime.seeding import Stream, derive_seed

_CACHE_SHARE = 1 / 4  # of the memory that is available
_MEASURED_IMAGES = 16
_Decoded = tuple[Tensor, Tensor, Tensor | None]


class ExampleKey(NamedTuple):
    """Which example, and how it is augmented (by epoch and index) and weighted."""

    epoch: int  # from 0
    index: int  # of the pair in the dataset
    batch_index: int  # position in the global batch
    weight: float  # of its loss; 0 for an example that only keeps a process busy


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
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
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
    instance = _read_edge_source(entry, label) if with_edges else None
    height, width = label.shape
    placement = transform.place((height, width), target=_shown(label, encoding, transform, window))
    placed = _compact(placement.label(label, encoding.num_classes))
    edge = None if instance is None else _edges(placement, instance, placed, entry.instance is not None)
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
        if cache_images == "auto":
            size = decoded_bytes(self.pairs, image_channels, with_edges=with_edges) * max(1, num_workers)
            size = round(size * len(self) / max(1, len(self.pairs)))  # good images are as large as the others
            cache_images = size <= available_memory() * _CACHE_SHARE
        self._cache: dict[int, _Decoded] | None = {} if cache_images else None

    @property
    def caches(self) -> bool:
        """Whether decoded pictures are kept in memory."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.pairs) + len(self.good_images)

    def __getitem__(self, key: ExampleKey) -> dict[str, Any]:
        """Return `image`, float32 [image_channels, H, W] in [-1, 1]; `label`, [H, W] in `0..num_classes`, uint8 (int16
        above 255 classes); booleans [H, W]: `edge` if `with_edges`, `inside` (not border) of windows, `hole`;
        `augment`, the parameters, if that is on; `index`, `batch_index` and `weight` of the key. Raises DataError for
        files that changed since they were scanned.
        """
        generator = self._generator(key)
        if self.windows is None:
            index, class_id, box = key.index, None, None
        else:
            index, class_id, box = self.windows.draw(generator)
        image, label, instance = self._decoded(index)
        if class_id is None or box is None:
            target = None if self.windows else _shown(label, self.encoding, self.transform)
        else:
            target = point_of(label, class_id, box, next(numbers(generator)))
            if target is None:
                found = f"has no {self.encoding.names[class_id]!r} where it had some when training began"
                raise DataError.of(self.pairs[index].mask, found, "start again, and leave the files as they are")
        height, width = label.shape
        placement = self.transform.place((height, width), generator if self.transform.train else None, target)
        if self.augment:
            placement = self._augmentation(key).applied(placement)
        example: dict[str, Any] = {
            "image": self._pixels(image, placement, generator).div_(127.5).sub_(1),
            "label": _compact(placement.label(label, self.encoding.num_classes)),
            "index": key.index,
            "batch_index": key.batch_index,
            "weight": key.weight,
        }
        if instance is not None:
            example["edge"] = _edges(placement, instance, example["label"], self._has_instances(index))
        if self.transform.resize == "window":
            example["inside"] = placement.inside()
        elif isinstance(placement, AugmentedPlacement):  # the border of "pad" counts where it is where it always is
            seen = placement.inside()
            example["inside"] = seen if placement.moved else torch.ones_like(seen)
        if isinstance(placement, AugmentedPlacement):
            example["augment"] = placement.parameters()
        if self.holes is not None:
            if not self.transform.train:  # the same hole every time
                generator.manual_seed(derive_seed(Stream.HOLE, self.seed, key.index))
            example["hole"] = self.holes(example["label"], numbers(generator))
        return example

    def picture(self, key: ExampleKey) -> Pair | GoodImage:
        """Return what an example shows."""
        index = key.index if self.windows is None else self.windows.draw(self._generator(key))[0]
        return self.pairs[index] if index < len(self.pairs) else self.good_images[index - len(self.pairs)]

    def _generator(self, key: ExampleKey) -> torch.Generator:
        generator = torch.Generator()
        if self.transform.train:
            generator.manual_seed(derive_seed(Stream.AUGMENT, self.seed, key.epoch, key.index))
        return generator

    def _has_instances(self, index: int) -> bool:
        return index < len(self.pairs) and self.pairs[index].instance is not None

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
        """Return image, label and, `with_edges`, instance map of a pair at full size."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        if index >= len(self.pairs):
            return self._keep(index, self._decoded_good(self.good_images[index - len(self.pairs)]))
        pair = self.pairs[index]
        if pair.mask is None:
            return self._keep(index, self._decoded_good(pair))
        image = read_image(pair.image, self.image_channels, upright=pair.upright, image_range=self.image_range)
        label = read_mask(pair.mask, self.encoding, upright=pair.upright)
        check_sizes(pair.image, image.shape[-2:], pair.mask, label.shape)
        return self._keep(index, (image, label, _read_edge_source(pair, label) if self.with_edges else None))

    def _decoded_good(self, good: GoodImage | Pair) -> _Decoded:
        image = read_image(good.image, self.image_channels, upright=good.upright, image_range=self.image_range)
        if good.mask is None:
            kind = torch.uint8 if self.encoding.num_classes < 256 else torch.int32
            label = torch.full(image.shape[-2:], self.transform.background, dtype=kind)
        else:
            label = read_mask(good.mask, self.encoding, upright=good.upright)
            check_sizes(good.image, image.shape[-2:], good.mask, label.shape)
        return image, label, label.int() if self.with_edges else None

    def _keep(self, index: int, decoded: _Decoded) -> _Decoded:
        if self._cache is not None:
            self._cache[index] = decoded
        return decoded


def check_sizes(path: str, size: Sequence[int], other_path: str, other_size: Sequence[int]) -> None:
    """Raise DataError if two pictures of one pair differ in size (height, width)."""
    if tuple(size) != tuple(other_size):
        found = f"{size[1]}x{size[0]} pixels, but {other_path} has {other_size[1]}x{other_size[0]}"
        if tuple(size) == tuple(other_size)[::-1]:
            found += " (sides exchanged: is one of them stored turned, and its EXIF orientation missing or ignored?)"
        raise DataError.of(path, found, "scale or crop one to the other's size (masks by nearest neighbor)")


def decoded_bytes(pairs: Sequence[Pair], channels: int, *, with_edges: bool = False) -> int:
    """Estimate the bytes of all decoded pairs from the sizes of a few of them, spread over the dataset."""
    if not pairs:
        return 0
    step = max(1, len(pairs) // _MEASURED_IMAGES)
    chosen = pairs[::step][:_MEASURED_IMAGES]
    measured = [(open_image(pair.image) if pair.mask is None else open_mask(pair.mask)).size for pair in chosen]
    pixels = sum(width * height for width, height in measured) / len(measured)
    return round(pixels * len(pairs) * (channels + 1 + 4 * with_edges))


def _read_edge_source(entry: Pair | MaskEntry, label: Tensor) -> Tensor:
    """Return the ids whose borders are the edges, int32 [H, W]: the instance map, or the labels where there is none."""
    if entry.instance is None:
        return label.int()
    instance = raw_mask(open_mask(entry.instance, upright=entry.upright), entry.instance).values
    check_sizes(entry.mask, label.shape, entry.instance, instance.shape)
    return torch.from_numpy(instance.astype(np.int32))


def _edges(placement: Placement | AugmentedPlacement, source: Tensor, label: Tensor, has_instances: bool) -> Tensor:
    """Return the edges of a placed map, booleans [H, W]: where `source`, ids [H, W] before placing, changes.

    Edges of labels placed by area are those of the placed `label`, as nearest pixels lose what the area rule keeps.
    """
    if placement.label_by_area and not has_instances:
        return edges_from_instances(label.int())
    return edges_from_instances(placement.mask(source, -1))


def _compact(label: Tensor) -> Tensor:
    return label if label.dtype == torch.uint8 else label.to(torch.int16)
