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

from guided_diffusion.data.files import open_image, open_mask
from guided_diffusion.data.intensity import ImageRange, eight_bits
from guided_diffusion.data.masks.encoding import LabelEncoding, edges_from_instances, raw_mask
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.memory import available_memory
from guided_diffusion.runtime.seeding import Stream, derive_seed

_CACHE_SHARE = 1 / 4  # of the memory that is available
_MEASURED_IMAGES = 16


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


def read_condition(
    entry: Pair | MaskEntry, encoding: LabelEncoding, transform: JointTransform, *, with_edges: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the condition of one mask for sampling: label [H, W] and, `with_edges`, its edges [H, W] (booleans).

    transform: without augmentation (`train=False`).
    """
    assert not transform.train
    label = read_mask(entry.mask, encoding, upright=entry.upright)
    instance = _read_edge_source(entry, label) if with_edges else None
    height, width = label.shape
    placement = transform.place((height, width))
    edge = None if instance is None else edges_from_instances(placement.mask(instance, -1))
    return _compact(placement.mask(label, encoding.num_classes)), edge


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Pairs as training examples; an example depends on (seed, epoch, index) alone.

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
    ):
        self.pairs = tuple(pairs)
        self.encoding = encoding
        self.transform = transform
        self.image_channels: Literal[1, 3] = image_channels
        self.image_range: ImageRange = image_range
        self.seed = seed
        self.with_edges = with_edges
        if cache_images == "auto":
            size = decoded_bytes(self.pairs, image_channels, with_edges=with_edges) * max(1, num_workers)
            cache_images = size <= available_memory() * _CACHE_SHARE
        self._cache: dict[int, tuple[Tensor, Tensor, Tensor | None]] | None = {} if cache_images else None

    @property
    def caches(self) -> bool:
        """Whether decoded pictures are kept in memory."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: ExampleKey) -> dict[str, Any]:
        """Return `image`, float32 [image_channels, H, W] in [-1, 1]; `label`, [H, W] in `0..num_classes`, uint8 (int16
        above 255 classes); `edge`, [H, W] booleans if `with_edges`; `index`, `batch_index` and `weight` of the key.
        Raises DataError for files that changed since they were scanned.
        """
        image, label, instance = self._decoded(key.index)
        generator = None
        if self.transform.train:
            generator = torch.Generator().manual_seed(derive_seed(Stream.AUGMENT, self.seed, key.epoch, key.index))
        height, width = label.shape
        placement = self.transform.place((height, width), generator)
        example: dict[str, Any] = {
            "image": placement.image(image).float().div_(127.5).sub_(1),
            "label": _compact(placement.label(label, self.encoding.num_classes)),
            "index": key.index,
            "batch_index": key.batch_index,
            "weight": key.weight,
        }
        if instance is not None:
            example["edge"] = edges_from_instances(placement.mask(instance, -1))
        return example

    def _decoded(self, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return image, label and, `with_edges`, instance map of a pair at full size."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        pair = self.pairs[index]
        image = read_image(pair.image, self.image_channels, upright=pair.upright, image_range=self.image_range)
        label = read_mask(pair.mask, self.encoding, upright=pair.upright)
        check_sizes(pair.image, image.shape[-2:], pair.mask, label.shape)
        decoded = (image, label, _read_edge_source(pair, label) if self.with_edges else None)
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
    measured = [open_mask(pair.mask).size for pair in pairs[::step][:_MEASURED_IMAGES]]
    pixels = sum(width * height for width, height in measured) / len(measured)
    return round(pixels * len(pairs) * (channels + 1 + 4 * with_edges))


def _read_edge_source(entry: Pair | MaskEntry, label: Tensor) -> Tensor:
    """Return the ids whose borders are the edges, int32 [H, W]: the instance map, or the labels where there is none."""
    if entry.instance is None:
        return label.int()
    instance = raw_mask(open_mask(entry.instance, upright=entry.upright), entry.instance).values
    check_sizes(entry.mask, label.shape, entry.instance, instance.shape)
    return torch.from_numpy(instance.astype(np.int32))


def _compact(label: Tensor) -> Tensor:
    return label if label.dtype == torch.uint8 else label.to(torch.int16)
