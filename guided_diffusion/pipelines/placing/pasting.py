"""Training defects put into good images as they are: warped as their masks were, with their own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluations.blending import paste, poisson_blend
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.paste import Blend
from guided_diffusion.data.components import Box
from guided_diffusion.data.datasets import image_tensor, read_image
from guided_diffusion.data.deep_color import deep_samples
from guided_diffusion.data.files import open_image
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.placing.scene import PlacedDefect
from guided_diffusion.runtime.errors import DataError

Pixels = NDArray[np.integer]
Patches = Callable[[PlacedDefect, Box, NativeImage], NDArray[np.float32]]
"""(defect with its edit, box, good image) -> [h, w, C], the pixels of the training image that come to lie in the box,
in the units of the good image, warped as the mask was."""


def seen_in_training(path: str | Path, trained: TrainedConfig) -> NDArray[np.uint8]:
    """Return an image as training reads it, [H, W, C]."""
    geometry, upright = trained.geometry, trained.source.exif != "ignore"
    image = read_image(path, geometry.image_channels, upright=upright, image_range=geometry.image_range)
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))


def training_patches(pairs: Iterable[Pair], trained: TrainedConfig) -> Patches:
    """Return the patches of training images, at the depth of their files; beyond them their borders are repeated."""
    by_stem: Mapping[str, Pair] = {pair.stem: pair for pair in pairs}

    @lru_cache(maxsize=8)
    def training_image(stem: str) -> NDArray[np.float32]:
        return _values_in_training(by_stem[stem].image, trained)

    def patch(defect: PlacedDefect, box: Box, good: NativeImage) -> NDArray[np.float32]:
        assert defect.edited is not None
        image = training_image(defect.edited.part.name)
        own = defect.box
        margin = max(own.top - box.top, own.left - box.left, box.bottom - own.bottom, box.right - own.right, 0)
        top, left = box.top - own.top + margin, box.left - own.left + margin
        warped = defect.edited.warp(image, margin)[top : top + box.size[0], left : left + box.size[1]]
        return good.low + warped * max(good.high - good.low, 1)

    return patch


def _values_in_training(path: str | Path, trained: TrainedConfig) -> NDArray[np.float32]:
    """Return an image as training sees it, [H, W, C] from 0, black, to 1; one of 16 bits is not rounded to 8."""
    geometry, upright = trained.geometry, trained.source.exif != "ignore"
    image = open_image(path, upright=upright)
    if deep_samples(image, str(path)) is None:
        seen = image_tensor(image, geometry.image_channels, str(path), geometry.image_range).numpy() / np.float32(255)
    else:
        deep = NativeImage.read(path, geometry.image_channels, geometry.image_range, upright=upright)
        seen = (deep.region(Box(0, 0, *deep.size)).numpy() + 1) / 2
    return np.ascontiguousarray(seen.transpose(1, 2, 0))


def pasted(
    good: NativeImage, defects: Sequence[PlacedDefect], patch_of: Patches, name: str, blend: Blend = "match"
) -> Pixels:
    """Return the pixels of a good image, [H, W, C], with the training defects in it; fully transparent ones stay.

    Raises DataError naming the image `name` for masks that are not of training defects.
    """
    image = good.pixels
    for defect in defects:
        if defect.edited is None:
            found = f"{name}: its masks do not come from training defects, so there is nothing to paste"
            raise DataError.of("place_config", found, "use mask_source bank or file, or arms without pasting")
        # A pixel wider than the mask: both methods use what surrounded the defect.
        box = _wider(defect.box, good.size)
        mask = np.zeros(box.size, bool)
        inner = Box(defect.top - box.top, defect.left - box.left, *_ends(defect.box, box))
        mask[inner.slices] = defect.mask
        where = (image, patch_of(defect, box, good), mask, box.top, box.left)
        image = poisson_blend(*where) if blend == "poisson" else paste(*where, blend == "match")
    return image if good.alpha is None else np.where(good.alpha[..., None] > 0, image, good.pixels)


def _wider(box: Box, size: tuple[int, int]) -> Box:
    return Box(max(box.top - 1, 0), max(box.left - 1, 0), min(box.bottom + 1, size[0]), min(box.right + 1, size[1]))


def _ends(box: Box, outer: Box) -> tuple[int, int]:
    return box.bottom - outer.top, box.right - outer.left
