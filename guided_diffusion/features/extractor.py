"""The protocol of what reads features: images to maps, each at its own resolution.

Maps are not enlarged: that costs 20 times the memory, and a linear layer can be applied before it with equal results.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.runtime.errors import UserError

VALUE_RANGE = (-1.0, 1.0)
MAP_TYPES: dict[Literal["fp16", "fp32"], torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}
HALF_LIMIT = 65504
"""The largest number of fp16."""


class MapShape(NamedTuple):
    """Channels, height and width of a feature map."""

    channels: int
    height: int
    width: int

    @property
    def numel(self) -> int:
        """Number of values."""
        return self.channels * self.height * self.width


class FeatureExtractor(Protocol):
    """Makes feature maps of images [N, image_channels, *image_size] with values in `value_range`."""

    image_size: Size
    image_channels: int
    value_range: tuple[float, float]
    dtype: torch.dtype
    """Of the maps."""
    noise_draws: int
    """How many noises there are to read an image under; 1 also where there is no noise."""

    @property
    def shapes(self) -> tuple[MapShape, ...]:
        """Shape of each map of an image, in the order of `maps`."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each map."""

    def maps(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> list[Tensor]:
        """Return the maps [N, C_i, h_i, w_i], on the CPU in channels_last: pixel by pixel, as tables of [h * w, C].

        positions: the number of each image, on which noise depends that images do not share. draw: which of the noises.
        """

    def settings(self) -> dict[str, Any]:
        """Return all that the maps depend on beside the images, in plain values for a record."""


def digest_of(settings: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that tell settings, or other plain values, apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class NetworkFeatures(ABC):
    """Base of the extractors that run a network, on `device`; a `FeatureExtractor`.

    On a CPU they run it image by image, so that the maps do not depend on the batch, not even by rounding.
    """

    value_range = VALUE_RANGE
    noise_draws = 1

    def __init__(
        self,
        *,
        image_size: Size,
        image_channels: int,
        device: torch.device | str = "cpu",
        amp_dtype: torch.dtype | None = None,
        dtype: torch.dtype = torch.float16,
    ):
        """Take (height, width) in pixels, what the network runs in (None: as its weights), and the type of maps."""
        self.image_size, self.image_channels = image_size, image_channels
        self.device, self.amp_dtype, self.dtype = torch.device(device), amp_dtype, dtype

    @property
    @abstractmethod
    def shapes(self) -> tuple[MapShape, ...]:
        """Shape of each map."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each map."""
        return tuple(shape.channels for shape in self.shapes)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that the maps depend on beside the images."""

    @abstractmethod
    def native(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> list[Tensor]:
        """Return the maps of images on the device as the network makes them, in one pass; see `maps`."""

    def common_settings(self) -> dict[str, Any]:
        """Return the settings that all networks have."""
        kind = None if self.amp_dtype is None else str(self.amp_dtype).removeprefix("torch.")
        names = {value: key for key, value in MAP_TYPES.items()}
        size = {"image_size": list(self.image_size), "image_channels": self.image_channels}
        return {**size, "dims": list(self.dims), "maps": names[self.dtype], "runs_in": kind}

    @torch.no_grad()
    def maps(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> list[Tensor]:
        """Return the maps [N, C_i, h_i, w_i] of images [N, C, H, W]; see `FeatureExtractor`.

        Raises UserError where they are not finite, or beyond what their type holds.
        """
        assert images.is_floating_point(), f"images of type {images.dtype}"
        assert images.shape[1:] == (self.image_channels, *self.image_size), f"images of shape {tuple(images.shape)}"
        assert len(positions) in (0, len(images)), "a position for each image, or none"
        assert 0 <= draw < self.noise_draws, "a noise that there is not"
        layout = {"dtype": self.dtype, "memory_format": torch.channels_last}
        result = [torch.empty((len(images), *shape), **layout) for shape in self.shapes]
        at_once = 1 if self.device.type == "cpu" else max(1, len(images))
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            amp = self.amp_dtype
            with nullcontext() if amp is None else torch.autocast(self.device.type, dtype=amp):
                native = self.native(images[part].to(self.device), positions[part], draw)
            for rows, found in zip(result, native, strict=True):
                self._refuse_overflow(found)
                rows[part] = found.to(self.dtype).cpu()
        return result

    def _refuse_overflow(self, found: Tensor) -> None:
        largest = float(found.abs().max())
        if largest <= (HALF_LIMIT if self.dtype == torch.float16 else torch.finfo(self.dtype).max):
            return
        beyond = f"values of {largest:.3g}, beyond the {HALF_LIMIT} of fp16" if largest < float("inf") else "not finite"
        raise UserError.of("feature maps", beyond, "set precision and feature_maps to fp32")


class ImageValues:
    """The values of each pixel as its features, for a comparison, or beside others; a `FeatureExtractor`."""

    value_range = VALUE_RANGE
    noise_draws = 1

    def __init__(self, image_size: Size, image_channels: int, dtype: torch.dtype = torch.float16):
        self.image_size, self.image_channels, self.dtype = image_size, image_channels, dtype

    @property
    def shapes(self) -> tuple[MapShape, ...]:
        return (MapShape(self.image_channels, *self.image_size),)

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.image_channels,)

    def maps(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> list[Tensor]:
        return [images.to(self.dtype).cpu().contiguous(memory_format=torch.channels_last)]

    def settings(self) -> dict[str, Any]:
        names = {value: key for key, value in MAP_TYPES.items()}
        size = {"image_size": list(self.image_size), "image_channels": self.image_channels}
        return {"extractor": "image", **size, "dims": list(self.dims), "maps": names[self.dtype]}


class JoinedFeatures:
    """The maps of several extractors of equal images, one after the other; a `FeatureExtractor`."""

    value_range = VALUE_RANGE

    def __init__(self, parts: Sequence[FeatureExtractor]):
        self.parts, first = tuple(parts), parts[0]
        kinds = {(part.image_size, part.image_channels, part.value_range, part.dtype) for part in parts}
        assert len(kinds) == 1, "extractors of other images"
        self.image_size, self.image_channels, self.dtype = first.image_size, first.image_channels, first.dtype
        self.noise_draws = max(part.noise_draws for part in parts)

    @property
    def shapes(self) -> tuple[MapShape, ...]:
        return tuple(shape for part in self.parts for shape in part.shapes)

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(channels for part in self.parts for channels in part.dims)

    def maps(self, images: Tensor, positions: Sequence[int] = (), draw: int = 0) -> list[Tensor]:
        return [found for part in self.parts for found in part.maps(images, positions, draw % part.noise_draws)]

    def settings(self) -> dict[str, Any]:
        """Return those of the first, with all `dims`, so that what differs can be named; the others' as "joined"."""
        first, *others = (part.settings() for part in self.parts)
        return {**first, "dims": list(self.dims), "joined": others}
