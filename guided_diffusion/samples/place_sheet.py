"""The contact sheet of `place`: good image, mask, result, and one of the holes enlarged before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.data import visualize
from guided_diffusion.data.components import Box
from guided_diffusion.data.datasets import image_tensor
from guided_diffusion.data.files import open_image, open_mask
from guided_diffusion.data.intensity import ImageRange, color_and_alpha, limits
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.visualize import Pixels
from guided_diffusion.samples.manifest import ManifestLine

_TITLES = ("good", "mask", "result", "good, enlarged", "result, enlarged")
_SIDE = 256  # pixels that a tile has at most
_LEAST_CROP = 32  # pixels of an image that are enlarged at least


@dataclass(frozen=True, eq=False)
class PlacedRow:
    """What a row of the sheet shows: images uint8 [H, W, C], the label map [H, W], and the hole that is enlarged."""

    good: Pixels
    label: NDArray[np.integer]
    result: Pixels
    hole: Box | None


def placed_rows(
    folder: Path,
    lines: Iterable[ManifestLine],
    encoding: LabelEncoding,
    channels: Literal[1, 3],
    image_range: ImageRange,
    *,
    upright: bool = True,
) -> Iterator[PlacedRow]:
    """Read the written pairs of `lines` below `folder` and their good images, as the model sees them.

    upright: whether EXIF orientations of the good images were applied, where the sizes of their masks do not tell.
    Results have the range of their good images.
    """
    for line in lines:
        good_path, result_path, mask_path = line.source[0], str(folder / line.image), str(folder / line.mask)
        label = encoding.decode(open_mask(mask_path), mask_path)
        good = open_image(good_path, upright=upright)
        if (good.height, good.width) != label.shape:
            good = open_image(good_path, upright=not upright)
        same = limits(*color_and_alpha(good, good_path), image_range)
        images = ((good, good_path), (open_image(result_path), result_path))
        before, after = (image_tensor(image, channels, path, same).numpy().transpose(1, 2, 0) for image, path in images)
        yield PlacedRow(before, label, after, line.defects[0].where if line.defects else None)


def place_sheet(rows: Iterable[PlacedRow], names: Sequence[str]) -> Image.Image:
    """Return the sheet of at least one row, whose images are reduced to at most 256 pixels a side.

    names: of the classes. Holes are enlarged with what surrounds them, by a whole number.
    """
    palette = visualize.class_palette(len(names))
    table, labels = [], []
    for row in rows:
        labels.append(np.unique(row.label)[None])
        tiles = [_fitted(row.good), palette[_fitted_label(row.label)], _fitted(row.result)]
        if row.hole is not None:
            crop = _around(row.hole, row.label.shape).slices
            tiles += [_fitted(row.good[crop]), _fitted(row.result[crop])]
        table.append(tiles)
    titles = _TITLES[: max(map(len, table))]
    return visualize.grid(table, column_titles=titles, legend=visualize.legend_of(names, labels), scale=1)


def _around(hole: Box, size: tuple[int, int]) -> Box:
    """Return a square inside an image of `size` with the hole and as much again around it, or what fits of it."""
    side = max(2 * max(hole.size), _LEAST_CROP)
    return hole.framed((side, side), size)


def _fitted(image: Pixels) -> Pixels:
    """Return an image averaged to at most `_SIDE` pixels a side, or enlarged to nearly that by nearest neighbor."""
    shrink, enlarge = _factors(image.shape[:2])
    if shrink > 1:
        return np.asarray(Image.fromarray(visualize.to_rgb(image)).reduce(shrink))
    return visualize.to_rgb(image).repeat(enlarge, axis=0).repeat(enlarge, axis=1)


def _fitted_label(label: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return a label map in the size of `_fitted`; of a block the largest id is shown, so that no defect is lost."""
    shrink, enlarge = _factors(label.shape)
    if shrink > 1:
        for axis in (0, 1):
            label = np.maximum.reduceat(label, np.arange(0, label.shape[axis], shrink), axis=axis)
    return label.repeat(enlarge, axis=0).repeat(enlarge, axis=1)


def _factors(size: Sequence[int]) -> tuple[int, int]:
    """Return by how much a picture of `size` is reduced, and by how much it is enlarged."""
    return -(-max(size) // _SIDE), max(1, _SIDE // max(size))
