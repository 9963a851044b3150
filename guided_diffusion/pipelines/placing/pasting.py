"""Training defects put into good images as they are: warped as their masks were, with their own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from evaluations.blending import paste, poisson_blend
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.paste import Blend
from guided_diffusion.data.components import Box
from guided_diffusion.data.datasets import image_tensor, read_mask
from guided_diffusion.data.files import open_image
from guided_diffusion.data.intensity import stored_samples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.placing.scene import PlacedDefect
from guided_diffusion.runtime.errors import DataError

Pixels = NDArray[np.integer]
Patches = Callable[[PlacedDefect, Box, NativeImage], NDArray[np.float32]]
"""(defect with its edit, box, good image) -> [h, w, C], the pixels of the training image that come to lie in the box,
in the units of the good image, warped as the mask was."""

REACH = 4
"""Pixels around a mask within which the surroundings of a defect are looked for."""
_WHOLLY = 0.999  # of a pixel
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


@dataclass(frozen=True, eq=False)
class _TrainingImage:
    """A training image as its file has it: values [H, W, C] from 0, black, to 1, white, and what they show.

    visible: [H, W], not transparent. label: [H, W] class ids.
    """

    values: NDArray[np.float32]
    visible: NDArray[np.bool_]
    label: NDArray[np.integer]

    @classmethod
    def read(cls, pair: Pair, channels: Literal[1, 3], encoding: LabelEncoding) -> _TrainingImage:
        """Read a pair. The values of the file: a range, such as each image's own percentiles, would scale defects."""
        image = open_image(pair.image, upright=pair.upright)
        samples, alpha = stored_samples(image, pair.image)
        visible = np.ones(samples.shape[:2], bool) if alpha is None else alpha > 0
        # Not over black: a defect of half opacity would be pasted darker than it is.
        samples = np.where(visible[..., None], samples, samples.dtype.type(0))
        if samples.dtype == np.uint8:
            picture = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
            pixels = image_tensor(picture, channels, pair.image).numpy().transpose(1, 2, 0)
            values = np.ascontiguousarray(pixels) / np.float32(255)
        else:
            values = _of_channels(samples.astype(np.float32) / 65535, channels)  # not rounded to 8 bits
        return cls(values, visible, read_mask(pair.mask, encoding, upright=pair.upright).numpy())


def _of_channels(values: NDArray[np.float32], channels: Literal[1, 3]) -> NDArray[np.float32]:
    """Return values [H, W, 1 or 3] as gray, by ITU-R 601 luma as `image_tensor` has it, or as equal colors."""
    if channels == 3:
        return values.repeat(3 // values.shape[2], axis=2)
    return values if values.shape[2] == 1 else values @ _LUMA


def training_patches(pairs: Iterable[Pair], trained: TrainedConfig, encoding: LabelEncoding) -> Patches:
    """Return the patches of training images, at the depth of their files.

    Around the mask they show what surrounds the defect and nothing else: pixels that are partly the defect, another
    one, ignored, transparent or beyond the image have the value of the nearest that is not. Where none is within REACH
    px of the mask, they are NaN.
    """
    by_stem: Mapping[str, Pair] = {pair.stem: pair for pair in pairs}
    channels = trained.geometry.image_channels

    @lru_cache(maxsize=8)
    def training_image(stem: str) -> _TrainingImage:
        return _TrainingImage.read(by_stem[stem], channels, encoding)

    @lru_cache(maxsize=8)
    def surroundings(stem: str, hosts: tuple[int, ...]) -> NDArray[np.uint8]:
        image = training_image(stem)
        return (image.visible & np.isin(image.label, hosts)).view(np.uint8)

    def patch(defect: PlacedDefect, box: Box, good: NativeImage) -> NDArray[np.float32]:
        assert defect.edited is not None
        own, part = defect.box, defect.edited.part
        image = training_image(part.name)
        margin = REACH + max(own.top - box.top, own.left - box.left, box.bottom - own.bottom, box.right - own.right, 0)
        known = defect.edited.warp(surroundings(part.name, part.hosts), margin, beyond=0) > _WHOLLY
        values = _surrounded(defect.edited.warp(image.values, margin), np.pad(defect.edited.mask, margin), known)
        return values[box.within(own.grown(margin)).slices] * np.iinfo(good.pixels.dtype).max

    return patch


def _surrounded(values: NDArray[np.float32], mask: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return values [H, W, C] whose unknown pixels outside the mask are those of the nearest known one; NaN: none."""
    given = known & ~mask
    if not given.any():
        return np.where(mask[..., None], values, np.float32(np.nan))
    nearest = ndimage.distance_transform_edt(~given, return_distances=False, return_indices=True)
    return np.where(mask[..., None], values, values[tuple(nearest)])


def pasted(
    good: NativeImage, defects: Sequence[PlacedDefect], patch_of: Patches, name: str, blend: Blend = "match"
) -> Pixels:
    """Return the pixels of a good image, [H, W, C], with the training defects in it, which are not on transparent ones.

    Raises DataError naming the image `name` for masks that are not of training defects.
    """
    image = good.pixels
    for defect in defects:
        if defect.edited is None:
            found = f"{name}: its masks do not come from training defects, so there is nothing to paste"
            raise DataError.of("place_config", found, "use mask_source bank or file, or arms without pasting")
        # A pixel wider than the mask: both methods use what surrounded the defect.
        box = defect.box.grown(1).inside(good.size)
        mask = np.zeros(box.size, bool)
        mask[defect.box.within(box).slices] = defect.mask
        patch = patch_of(defect, box, good)
        if good.alpha is not None:  # transparent pixels surround nothing
            patch = np.where(((good.alpha[box.slices] == 0) & ~mask)[..., None], np.float32(np.nan), patch)
        where = (image, patch, mask, box.top, box.left)
        if blend == "none" or np.isnan(patch[~mask]).all():  # or nothing is known that it could be matched by
            image = paste(*where, match=False)
        else:
            image = poisson_blend(*where) if blend == "poisson" else paste(*where, match=True)
    return image
