"""LabelMe: a JSON file beside each image."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated as Limited
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from guided_diffusion.data.boxes.json_records import Record, entry_problem, read_records
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.formats.annotated import Annotated, Loss, LossKind, Picture, Shape
from guided_diffusion.data.formats.regions import Bitmap, Bits, Disc, Polygons, Region, rectangle, ring_of
from guided_diffusion.data.formats.source_files import SourceFiles, folder_of, split_of
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError

FORM = "LabelMe"
_TURNED = ("rotation", "oriented_rectangle", "quadrilateral")
"""Kinds, of X-AnyLabeling and others, that have all their corners."""
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


class LabelmeShape(Record):
    """A shape: its class, its corners, and for masks a PNG in base 64."""

    form: ClassVar = 'write {"label": "scratch", "shape_type": "polygon", "points": [[x, y], [x, y], [x, y]]}'

    label: Limited[str, Field(min_length=1)]
    points: list[Limited[list[float], Field(min_length=2, max_length=2)]]
    shape_type: str | None = None
    mask: str | None = None


class LabelmeFile(Record):
    """What a file says of its image."""

    form: ClassVar = 'write {"imagePath": "a.png", "imageHeight": 480, "imageWidth": 640, "shapes": [...]}'

    imagePath: Limited[str, Field(min_length=1)]
    imageHeight: Limited[int, Field(gt=0)] | None = None
    imageWidth: Limited[int, Field(gt=0)] | None = None
    imageData: str | None = None


def is_labelme(content: Any) -> bool:
    """Return whether the content of a JSON file is that of LabelMe."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read_labelme(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the images of all LabelMe files of a source; classes in alphabetical order."""
    names = files.fitting(is_labelme)
    if not names:
        found = "has no JSON with imagePath and shapes"
        raise DataError.of(files.root, found, "give the folder that LabelMe saved its files in")
    problems: list[Problem] = []
    pictures: list[Picture] = []
    losses: list[Loss] = []
    said_by: dict[str, str] = {}
    for name in names:
        path, content = files.files[name], files.json(name)
        for record in read_records(path, "file", [content], LabelmeFile, problems):
            try:
                picture = _picture(files, name, record)
            except DataError as error:
                problems.append(entry_problem(path, "imagePath", error.found, error.remedy))
                continue
            if picture.name in said_by:
                found = f"is of image {picture.name!r}, as {said_by[picture.name]} is"
                problems.append(entry_problem(path, "imagePath", found, "take one of the two away"))
            said_by[picture.name] = path
            shapes = _shapes(path, content["shapes"], problems, losses)
            more = {"shapes": shapes, "split": split_of(folder_of(name)), "file": path}
            pictures.append(Picture(picture.name, picture.path, size=picture.size, content=picture.content, **more))
    if problems:
        raise DataError(problem_lines(problems))
    declared = sorted({shape.name for picture in pictures for shape in picture.shapes})
    unlisted = [Loss(LossKind.UNLISTED, files.pictures[name], name) for name in files.pictures if name not in said_by]
    return Annotated(FORM, tuple(declared), tuple(pictures), (*losses, *unlisted))


def _picture(files: SourceFiles, name: str, record: LabelmeFile) -> Picture:
    """Return the image of a file: the one that it names, else the one that it holds."""
    known = record.imageHeight is not None and record.imageWidth is not None
    size = (record.imageHeight, record.imageWidth) if known else None
    try:
        # An image of that name in another folder may be another one; the one inside is surely that.
        elsewhere = not record.imageData or files.given_images
        found = files.find(
            record.imagePath, folder_of(name), split_of(folder_of(name)), beside=True, elsewhere=elsewhere
        )
        return Picture(found, files.pictures[found], size=size)
    except DataError:
        if not record.imageData:
            raise
    try:
        content = base64.b64decode(record.imageData, validate=True)
    except binascii.Error as error:
        raise DataError.of(name, "imageData is not in base 64", "put the image beside it") from error
    if not content.startswith((b"\x89PNG", b"\xff\xd8")):
        raise DataError.of(name, "imageData is neither a PNG nor a JPEG", "put the image beside it, as PNG")
    stem = name.rpartition(".")[0]
    return Picture(f"{stem}.png", files.files[name], size=size, content=content)


def _shapes(path: str, items: Sequence[Any], problems: list[Problem], losses: list[Loss]) -> tuple[Shape, ...]:
    shapes = []
    for number, item in enumerate(items, start=1):
        entry = f"shape number {number}"
        for shape in read_records(path, entry, [item], LabelmeShape, problems):
            try:
                region = _region(shape)
            except ValueError as error:
                problems.append(entry_problem(path, entry, str(error), LabelmeShape.form))
                continue
            if isinstance(region, LossKind):
                losses.append(Loss(region, path, f"{entry}, {shape.shape_type or 'polygon'}"))
            else:
                shapes.append(Shape(shape.label, region, entry))
    return tuple(shapes)


def _region(shape: LabelmeShape) -> Region | LossKind:
    ring = ring_of([number for point in shape.points for number in point])
    kind = shape.shape_type or "polygon"
    if kind == "mask":
        if shape.mask is None or len(ring) != 2:
            raise ValueError("a mask needs a PNG in base 64 and two points")
        (x0, y0), (x1, y1) = np.sort(ring, axis=0).astype(int).tolist()
        return Bitmap((y1 - y0 + 1, x1 - x0 + 1), partial(_mask_bits, shape.mask), y0, x0)
    if kind == "polygon" or kind in _TURNED or (kind == "rectangle" and len(ring) == 4):  # X-AnyLabeling has all four
        return Polygons((ring,), "corners") if len(ring) >= 3 else LossKind.FEW_CORNERS
    if kind in ("rectangle", "circle") and len(ring) != 2:
        raise ValueError(f"a {kind} has two points, and {len(ring)} are there")
    if kind == "rectangle":
        return Polygons((rectangle(*ring[0], *ring[1]),), "corners")
    if kind == "circle":
        return Disc(tuple(ring[0].tolist()), math.dist(*ring))
    return LossKind.NO_AREA if kind in _WITHOUT_AREA else LossKind.OTHER_SHAPE


def _mask_bits(text: str) -> Bits:
    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > 1 << 28:
                raise ValueError("its mask is too large")
        return np.asarray(open_mask("mask", content)) > 0
    except (binascii.Error, OSError, DataError) as error:
        raise ValueError("its mask is not a PNG in base 64") from error
