"""Whether boxes lie in their picture: what is a little over its border is cut off, what cannot be meant is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.boxes.json_records import file_problem
from guided_diffusion.data.boxes.records import AnnotationFile, BoxedImage, Corners, ObjectBox
from guided_diffusion.data.scan.problems import Problem, ProblemKind

_FAR_PIXELS, _FAR_SHARE = 2.0, 0.05
"""A box may stick out by so many pixels or by this share of the side: what annotators draw over the border."""
_WHOLE = 1.0
"""A box that is so near to all four borders, in pixels, is the picture as a whole."""


@dataclass(frozen=True)
class Fitted:
    """The boxes of a picture that can be used, cut off at its border, and what is said of the others."""

    image: BoxedImage
    problems: tuple[Problem, ...] = ()
    clipped: int = 0
    far: int = 0
    """Boxes that stick out far."""
    more_whole: int = 0
    """Boxes of the whole picture beside the first one."""


def fit_boxes(source: str, image: BoxedImage, size: Size) -> Fitted:
    """Return the boxes of a picture of `size` (height, width) as it is read. source: the annotation file.

    The first box of the whole picture becomes the class of its background; others are objects.
    """
    kept: list[ObjectBox] = []
    problems: list[Problem] = []
    clipped = far = 0
    for each in image.objects:
        if wrong := box_mistake(each.box, size):
            found = f"box {_shown(each.box)} of {image.path.rpartition('/')[2]}, which has {size[1]}x{size[0]} px, "
            where = f"{source}: {each.entry}"
            problems.append(Problem(where, found + wrong[0], wrong[1], ProblemKind.BOX))
            far += wrong is _FAR
            continue
        inside = clipped_box(each.box, size)
        clipped += inside != each.box
        kept.append(replace(each, box=inside))
    whole = next((each for each in kept if _is_whole(each.box, size)), None)
    kept = [each for each in kept if each is not whole]
    more_whole = sum(_is_whole(each.box, size) for each in kept)
    for each in kept:
        if each.class_id == 0:  # it would be an object of the class that no object has
            name = os.path.basename(image.path)
            found = f"box {_shown(each.box)} of {name} is of the background, but does not cover the picture"
            remedy = "draw it around the whole picture, or remove it"
            problems.append(Problem(f"{source}: {each.entry}", found, remedy, ProblemKind.BOX))
    background = image.background if whole is None else whole.class_id
    fitted = replace(image, objects=tuple(kept), size=size, background=background)
    return Fitted(fitted, tuple(problems), clipped, far, more_whole)


_FAR = (
    "sticks out far",
    "correct it; are its numbers in another order than the format has them (corners for width and height)?",
)
_NAN = "has a number that is none", "draw it again, or remove it"
_BACKWARD = "ends before it begins", "correct it; are its numbers in another order than the format has them?"
_EMPTY = "has no area", "draw it again, or remove it: an object needs a width and a height"
_OUTSIDE = "is wholly outside", "correct it, or remove it; is it a box of another picture, or of another size of it?"


def box_mistake(box: Corners, size: Size, far_pixels: float = _FAR_PIXELS) -> tuple[str, str] | None:
    """Return what is wrong with a box in a picture of `size`, and what to do; None where it can be used.

    far_pixels: by which it may stick out whatever the size is.
    """
    x0, y0, x1, y1 = box
    height, width = size
    if not all(map(math.isfinite, box)):
        return _NAN
    if x1 < x0 or y1 < y0:
        return _BACKWARD
    if x1 == x0 or y1 == y0:
        return _EMPTY
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return _OUTSIDE
    over = ((max(-x0, x1 - width), width), (max(-y0, y1 - height), height))
    return _FAR if any(by > max(far_pixels, _FAR_SHARE * side) for by, side in over) else None


def clipped_box(box: Corners, size: Size) -> Corners:
    """Return what of a box is in a picture of `size`."""
    x0, y0, x1, y1 = box
    height, width = size
    return max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)


def _is_whole(box: Corners, size: Size) -> bool:
    x0, y0, x1, y1 = box
    return max(x0, y0, size[1] - x1, size[0] - y1) <= _WHOLE and min(size) > 2 * _WHOLE


def format_problems(file: AnnotationFile, fitted: Sequence[Fitted], sizes: Sequence[Size]) -> list[Problem]:
    """Return what the numbers of all boxes together say about their format: corners for width and height, or shares.

    fitted, sizes: of the file's pictures, in its order.
    """
    boxes = [each.box for image in file.images for each in image.objects]
    if not boxes or not all(map(math.isfinite, (value for box in boxes for value in box))):
        return []
    # As the file has them, where it has width and height.
    stated = boxes if "xmin" in file.form else [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
    if max(value for box in stated for value in box) <= 1 and min(min(size) for size in sizes) > 2:
        remedy = "multiply them by width and height of the picture: pixels are expected"
        return [file_problem(file.path, "no number of any box is above 1, as if they were shares of the size", remedy)]
    far = sum(each.far for each in fitted)
    if far and "xmin" not in file.form and _fit_as_corners(file, sizes):
        found = f"{far} of {len(boxes)} boxes stick out far, and all would fit as [x0, y0, x1, y1]"
        return [file_problem(file.path, found, f"write them as the format has them: {file.form}")]
    return []


def _fit_as_corners(file: AnnotationFile, sizes: Sequence[Size]) -> bool:
    for image, (height, width) in zip(file.images, sizes, strict=True):
        for x0, y0, x1, y1 in (each.box for each in image.objects):
            across, down = x1 - x0, y1 - y0
            if not (x0 < across <= width + 1 and y0 < down <= height + 1):
                return False
    return True


def _shown(box: Corners) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in box) + "]"
