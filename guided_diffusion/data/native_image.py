"""A good image at its own size and depth: regions are read as the model sees them, painted pixels are put back.

A file has as many channels as the model: a gray one cannot take painted colors, nor would colors stay colors in a model
of gray. Files of three equal channels are gray for a model of one channel, and are written as gray.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from guided_diffusion.data.components import Box
from guided_diffusion.data.deep_color import write_deep_png
from guided_diffusion.data.files import open_image
from guided_diffusion.data.intensity import ImageRange, limits, stored_samples, to_8_bits
from guided_diffusion.runtime.errors import DataError

_GRAY_MODES = ("1", "L", "LA")
_COMPRESSION = 4  # as small as PIL's own 6 in half its time, which is many seconds for noise of 12 megapixels


@dataclass(eq=False)
class NativeImage:
    """The samples of an image file, of 8 or 16 bits, and the values that the model sees as black and white."""

    pixels: NDArray[np.integer]  # uint8 or uint16 [H, W, 1 or 3]
    alpha: NDArray[np.integer] | None  # [H, W] of the same type; never changed
    low: int
    high: int

    @classmethod
    def read(
        cls, path: str | Path, channels: Literal[1, 3], image_range: ImageRange = "auto", *, upright: bool = True
    ) -> Self:
        """Return the image in a file; `upright`: turned as its EXIF orientation says.

        Raises DataError if it cannot be read, has floating point values, or other channels or fewer bits than the
        model.
        """
        image = open_image(path, upright=upright, removed="the image")
        if image.mode == "F":
            raise DataError.of(path, "image has floating point values", "save it with 8 or 16 bits per channel")
        color, alpha = stored_samples(image, str(path))
        if channels == 3 and (image.mode in _GRAY_MODES or color.shape[2] == 1):
            found = "is a gray image, but image_channels is 3"
            raise DataError.of(path, found, "save it as RGB, or use image_channels 1")
        if channels == 1 and not has_no_colors(color):
            found = "has colors, but image_channels is 1"
            raise DataError.of(path, found, "save it as gray, or use image_channels 3")
        low, high = limits(color, None if alpha is None else to_8_bits(alpha), image_range)
        if high > np.iinfo(color.dtype).max:
            found = f"has {8 * color.dtype.itemsize} bits, but image_range is [{low}, {high}]"
            raise DataError.of(path, found, "use files of the depth of the training's")
        return cls(np.require(color[..., :channels], requirements=["C", "W"]), alpha, low, high)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def region(self, box: Box) -> Tensor:
        """Return what the model sees of a box inside the image, float32 [C, h, w] in [-1, 1], at the file's precision.

        As in training, values outside of low..high are clipped and transparent pixels composited over black.
        """
        stored = self.pixels[box.slices].astype(np.float32)
        assert stored.shape[:2] == box.size, "the box is not inside the image"
        seen = (stored.clip(self.low, self.high) - np.float32(self.low)) / np.float32(self._half_span)
        if self.alpha is not None:
            seen *= self._opacity(box).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray((seen - 1).transpose(2, 0, 1)))

    def put(self, box: Box, values: Tensor, hole: Tensor | NDArray[np.bool_]) -> None:
        """Change pixels in `hole`, booleans [h, w], by what `values`, [C, h, w] in [-1, 1], are other than `region`.

        Pixels outside of low..high keep the excess, which the model does not see; it sees `values` in all others. What
        is outside the hole stays, and so do fully transparent pixels, which hold no visible color.
        """
        inside = np.asarray(hole, dtype=bool)
        assert inside.shape == box.size == tuple(values.shape[1:]), "values, hole and box differ in size"
        stored = self.pixels[box.slices]
        changed = values.detach().cpu().double().clamp(-1, 1).sub_(self.region(box)).numpy().transpose(1, 2, 0)
        changed *= self._half_span
        if self.alpha is not None:
            opacity = self._opacity(box)
            inside = inside & (opacity[..., 0] > 0)
            changed /= np.maximum(opacity, 1e-9)
        changed += stored
        np.clip(changed, np.minimum(stored, self.low), np.maximum(stored, self.high), out=changed)
        stored[inside] = np.rint(changed[inside]).astype(stored.dtype)

    def save(self, path: str | Path) -> None:
        """Write the image as PNG of its depth, with its alpha, whatever the extension; not atomic by itself."""
        samples = self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])
        if samples.dtype == np.uint16:
            write_deep_png(path, samples)
        else:
            picture = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
            picture.save(path, format="PNG", compress_level=_COMPRESSION)

    @property
    def _half_span(self) -> float:
        return max(self.high - self.low, 1) / 2

    def _opacity(self, box: Box) -> NDArray[np.float64]:
        """Return alpha as 0..1, [h, w, 1]."""
        assert self.alpha is not None
        return self.alpha[box.slices][..., None] / np.iinfo(self.alpha.dtype).max


def has_no_colors(color: NDArray[np.integer]) -> bool:
    """Return whether the channels of [H, W, 1 or 3] are equal."""
    return all(np.array_equal(color[..., 0], color[..., channel]) for channel in range(1, color.shape[2]))
