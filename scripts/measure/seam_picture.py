"""The picture of seams: good | pasted | Poisson-blended | ours, one defect a row, small ones enlarged in a corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from guided_diffusion.data import visualize
from guided_diffusion.data.components import Box

CELL = 300, 200  # width and height of a picture; four of them and the titles stay below 1400 px
_LEAST_VIEW = 200, 133  # pixels of an image that a cell shows at least
_AROUND = 1.6  # a view is so many times as large as the defect
_LEAST_AROUND = 1.25  # the same where the image is too narrow to fill the cell
_SMALL = 0.2  # of the view: a defect that is at most so large is enlarged
_INSET = 96  # side of the enlarged part, without its frame
_LEAST_INSET = 24  # pixels of an image that it shows at least
_INSET_AROUND = 1.8
_FRAME = 2
_PERCENT = 0.3  # of the pixels that are shown black, and white
_SMOOTH = Image.Resampling.BICUBIC


@dataclass(frozen=True, eq=False)
class PictureRow:
    """A defect: images by title, [H, W] or [H, W, 1 or 3], uint8 or uint16, all of one size; and its mask, [H, W]."""

    name: str
    class_name: str
    images: dict[str, NDArray[Any]]
    mask: NDArray[np.bool_]


def seam_picture(rows: Sequence[PictureRow]) -> Image.Image:
    """Return the sheet of at least one row; the brightness is stretched alike in all pictures of a row."""
    return visualize.grid(
        [_cells(row) for row in rows],
        column_titles=list(rows[0].images),
        row_titles=[row.class_name for row in rows],
        scale=1,
    )


def _cells(row: PictureRow) -> list[visualize.Pixels]:
    defect = Box.around(row.mask)
    size, ratio = row.mask.shape, CELL[0] / CELL[1]
    height = max(_LEAST_VIEW[1], _AROUND * defect.size[0], _AROUND * defect.size[1] / ratio)
    height = min(height, max(_LEAST_AROUND * defect.size[0], size[1] / ratio))
    view = defect.framed((round(height), round(height * ratio)), size)
    inset = None
    if max(defect.size[0] / view.size[0], defect.size[1] / view.size[1]) <= _SMALL:
        side = round(max(_LEAST_INSET, _INSET_AROUND * max(defect.size)))
        inset = defect.framed((side, side), size).within(view)
    return [_cell(image, inset) for image in _stretched([image[view.slices] for image in row.images.values()])]


def _stretched(images: Sequence[NDArray[Any]]) -> list[visualize.Pixels]:
    """Return images as uint8, [H, W, 3], with the same black and white."""
    low, high = np.percentile(np.stack(images), (_PERCENT, 100 - _PERCENT))
    scaled = (np.clip((image - low) / max(high - low, 1) * 255, 0, 255) for image in images)
    return [visualize.to_rgb(np.round(image).astype(np.uint8)) for image in scaled]


def _cell(image: visualize.Pixels, inset: Box | None) -> visualize.Pixels:
    """Return an image fitted into a white cell, with a part of it enlarged in the corner that is farthest from it."""
    height, width = image.shape[:2]
    factor = min(CELL[0] / width, CELL[1] / height)
    fitted = Image.fromarray(image).resize(
        (round(width * factor), round(height * factor)), Image.Resampling.LANCZOS if factor < 1 else _SMOOTH
    )
    if inset is not None:
        enlarged = Image.fromarray(image[inset.slices]).resize((_INSET, _INSET), _SMOOTH)
        framed = Image.new("RGB", (_INSET + 2 * _FRAME,) * 2, "white")
        framed.paste(enlarged, (_FRAME, _FRAME))
        at_left = inset.left + inset.right > width
        at_top = inset.top + inset.bottom > height
        corner = (0 if at_left else fitted.width - framed.width, 0 if at_top else fitted.height - framed.height)
        fitted.paste(framed, corner)
        edges = [round(edge * factor) for edge in (inset.left, inset.top, inset.right, inset.bottom)]
        ImageDraw.Draw(fitted).rectangle(edges, outline="white")
    cell = Image.new("RGB", CELL, "white")
    cell.paste(fitted, ((CELL[0] - fitted.width) // 2, (CELL[1] - fitted.height) // 2))
    return np.asarray(cell)
