"""Images that are kept but for a hole: good images at their own size, and real pairs as the network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.studio import StudioConfig
from guided_diffusion.data.area import covered, reduce_part, reduced_size
from guided_diffusion.data.components import Box, find_components
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import GoodImage
from guided_diffusion.data.scan.good_images import list_upright
from guided_diffusion.data.visualize import Pixels, quantize
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.holes import GrownHole, Hole, grow_holes, part_of
from guided_diffusion.pipelines.inpainting import PaintSettings, reduced_label
from guided_diffusion.pipelines.placing.good_images import header_size
from guided_diffusion.pipelines.placing.plan import OrdinaryClasses
from guided_diffusion.pipelines.studio.first_reads import FirstReads
from guided_diffusion.runtime.errors import DataError


@dataclass(eq=False)
class Base:
    """An image at its own size, its label map before anything was painted, and how the network sees it.

    shown: (height, width) of the image at the scale of the network, which is that of the canvas.
    keep_ground: background on the canvas means that nothing was painted there, and the image's own class stays.
    """

    pixels: NativeImage
    label: NDArray[np.integer]
    shown: Size
    settings: PaintSettings
    keep_ground: bool

    def copy(self) -> NativeImage:
        """Return the image, to be painted into."""
        pixels = self.pixels
        return NativeImage(pixels.pixels.copy(), pixels.alpha, pixels.low, pixels.high)

    def picture(self, image: NativeImage) -> Pixels:
        """Return an image of this size as the canvas shows it, uint8 [h, w, C]."""
        return reduced_picture(image, self.shown)

    def painted(self, canvas: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the label map [H, W] of the finished image for one of the canvas [h, w]."""
        changed = canvas != self.canvas_label
        if self.keep_ground:
            changed &= canvas != self.settings.background
        # Where the canvas shows what it showed before, finer details of the own label map stay.
        size = self.pixels.size
        grown = enlarged_label(canvas, size).astype(self.label.dtype)
        return np.where(enlarged_label(changed, size), grown, self.label)

    @property
    def canvas_label(self) -> NDArray[np.integer]:
        """The label map as the canvas shows it, [h, w]."""
        settings = self.settings
        ids = {"background": settings.background, "null_id": settings.num_classes}
        box = Box(0, 0, *self.shown)
        seen = reduced_label(self.label, self.shown, box, **ids, by_area=settings.label_by_area)
        return seen.numpy().astype(self.label.dtype)

    def holes(self, finished: NDArray[np.integer]) -> list[Hole]:
        """Return a hole for each connected part of a class that differs from the label map before."""
        changed = finished != self.label
        marked = np.where(changed, finished.astype(np.int32), -1)
        classes = [int(each) for each in np.unique(finished[changed])]
        return [Hole(part.box, part.mask) for part in find_components(marked, classes)]

    def grown(self, holes: Sequence[Hole]) -> list[GrownHole]:
        """Return the holes as they are painted: with their margin, those that meet joined."""
        return grow_holes(holes, self.settings.native_margin, self.pixels.size)

    def shown_hole(self, grown: Sequence[GrownHole]) -> NDArray[np.bool_]:
        """Return what is painted anew, [h, w] of the canvas: every pixel of which a hole covers a part."""
        whole = part_of(grown, Box(0, 0, *self.pixels.size))
        if self.shown != self.pixels.size:
            spans = (0, self.shown[0]), (0, self.shown[1])
            whole = reduce_part(whole, self.pixels.size, self.shown, *spans)
        return whole[0].numpy() > 0


def reduced_picture(image: NativeImage, shown: Size) -> Pixels:
    """Return an image at another size, averaged by area, as the network sees its values: uint8 [h, w, C]."""
    spans = (0, shown[0]), (0, shown[1])
    part = image.region(covered(image.size, shown, *spans))
    if shown != image.size:
        part = reduce_part(part.double(), image.size, shown, *spans).float()
    return quantize(part.numpy()[None])[0]


def enlarged_label(canvas: NDArray, size: Size) -> NDArray:
    """Return a map [h, w] at a larger size: each pixel has what the canvas has at its center."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, canvas.shape, strict=True))
    return canvas[rows[:, None], columns]


class GoodImages:
    """The images of `good_dir`, read when they are asked for."""

    def __init__(self, config: StudioConfig, trained: TrainedConfig, encoding: LabelEncoding):
        """List the files; UserError for a folder that cannot be used. Without good_dir there are none."""
        self._trained, self._ordinary = trained, OrdinaryClasses(trained, encoding)
        self.images = tuple(list_upright(config.good_dir, trained.source.exif)) if config.good_dir else ()
        self._settings = paint_settings(config, trained, encoding, trained.geometry.scale)
        self.reads = FirstReads()
        self.of = lru_cache(maxsize=4)(self._read)

    def size(self, index: int) -> Size | None:
        """Return (height, width) of a good image on the canvas by its header; None where it cannot be told."""
        good = self.images[index]
        native = header_size(good.image, upright=good.upright)
        return None if native is None else reduced_size(native, self._trained.geometry.scale)

    def _read(self, index: int) -> Base:
        """Return a good image; DataError for one that cannot be read, or has other channels than the model."""
        good: GoodImage = self.images[index]
        geometry = self._trained.geometry
        with self.reads.of(*filter(None, (good.image, good.mask))):
            image = NativeImage.read(good.image, geometry.image_channels, geometry.image_range, upright=good.upright)
            label = self._ordinary.of(good, image.size)
        shown = reduced_size(image.size, geometry.scale)
        window = height_width(geometry.image_size)
        if shown[0] < window[0] and shown[1] < window[1]:
            found = f"has {shown[1]}x{shown[0]} pixels at the model's scale, less than a window"
            raise DataError.of(good.image, found, "use larger images")
        return Base(image, label, shown, self._settings, keep_ground=True)


def pair_base(
    config: StudioConfig,
    trained: TrainedConfig,
    encoding: LabelEncoding,
    image: Pixels,
    label: NDArray[np.integer],
) -> Base:
    """Return a real pair as the network sees it: image uint8 [H, W, C] and class ids [H, W] of its size."""
    settings = paint_settings(config, trained, encoding, 1.0)
    size = label.shape[0], label.shape[1]
    return Base(NativeImage(image.copy(), None, 0, 255), label, size, settings, keep_ground=False)


def paint_settings(
    config: StudioConfig, trained: TrainedConfig, encoding: LabelEncoding, scale: float
) -> PaintSettings:
    """Return how holes are painted in images that the network sees at `scale`."""
    return PaintSettings(
        window=height_width(trained.geometry.image_size),
        scale=scale,
        margin=config.hole_margin,
        feather=config.feather,
        num_classes=encoding.num_classes,
        background=get_mode(trained.source.dataset_mode).background,
        label_by_area=trained.geometry.mask_resize != "nearest",
    )
