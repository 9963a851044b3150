"""CVAT for images 1.1: one annotations.xml with polygons, ellipses and masks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from guided_diffusion.data.boxes.json_records import entry_problem
from guided_diffusion.data.formats.annotated import Annotated, Loss, LossKind, Picture, Shape
from guided_diffusion.data.formats.regions import Bitmap, Polygons, Region, ellipse, ring_of
from guided_diffusion.data.formats.run_lengths import mask_of_runs
from guided_diffusion.data.formats.source_files import SourceFiles, folder_of, split_of
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError

FORM = "CVAT for images 1.1"
_REMEDY = "export the task again as CVAT for images 1.1"
_HEAD = 65536
"""Bytes in which the root of a file of CVAT stands."""
_SHAPES = ("polygon", "mask", "box", "points", "polyline", "cuboid", "ellipse", "skeleton", "tag")


def is_cvat(files: SourceFiles, name: str) -> bool:
    """Return whether an XML file has the root of CVAT's annotations."""
    with open(files.files[name], "rb") as file:
        return b"<annotations>" in file.read(_HEAD)


def read_cvat(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the images of all XML files of CVAT in a source; classes in the order of the labels of the task."""
    names = [name for name in files.named(".xml") if is_cvat(files, name)]
    if not names:
        raise DataError.of(files.root, "has no XML with the root <annotations>", _REMEDY)
    problems: list[Problem] = []
    pictures: dict[str, Picture] = {}
    losses: list[Loss] = []
    declared: dict[str, None] = {}
    for name in names:
        path, root = files.files[name], _root(files, name)
        if root.find("track") is not None:
            raise DataError.of(path, "has tracks, of CVAT for video", _REMEDY)
        declared |= dict.fromkeys(label.findtext("name", "") for label in root.iterfind("./meta//labels/label"))
        for element in root.iterfind("image"):
            picture = _picture(files, name, element, problems, losses)
            if picture is not None and picture.name in pictures:
                found = "is there twice"
                problems.append(entry_problem(path, f"image {picture.name}", found, "take one of the two away"))
            if picture is not None:
                pictures[picture.name] = picture
    if problems:
        raise DataError(problem_lines(problems))
    used = dict.fromkeys(shape.name for picture in pictures.values() for shape in picture.shapes)
    unlisted = [Loss(LossKind.UNLISTED, files.pictures[name], name) for name in files.pictures if name not in pictures]
    return Annotated(FORM, tuple({**declared, **used}), tuple(pictures.values()), (*losses, *unlisted))


def _root(files: SourceFiles, name: str) -> Element:
    path = files.files[name]
    try:
        root = fromstring(files.content(name), forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError.of(path, "declares a document type or entities, which are not read", _REMEDY) from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError.of(path, f"is not XML ({error})", _REMEDY) from error
    if root.tag != "annotations":
        raise DataError.of(path, f"has the root <{root.tag}>, not <annotations>", _REMEDY)
    return root


def _picture(
    files: SourceFiles, name: str, element: Element, problems: list[Problem], losses: list[Loss]
) -> Picture | None:
    path, said = files.files[name], element.get("name", "")
    split = split_of(element.get("subset", "")) or split_of(folder_of(said)) or split_of(name)
    try:
        size = int(element.get("height", "")), int(element.get("width", ""))
        found = files.find(said, folder_of(name), split)
    except ValueError:
        remedy = 'write <image name="a.png" width="640" height="480">'
        problems.append(entry_problem(path, f"image {said}", "has no width and height", remedy))
        return None
    except DataError as error:
        problems.append(entry_problem(path, f"image {element.get('id', said)}", error.found, error.remedy))
        return None
    shapes = []
    children = [child for child in element if child.tag in _SHAPES]
    # Of equal z_order, later ones lie above, as CVAT draws them.
    for number, child in sorted(enumerate(children, start=1), key=lambda item: _z_order(item[1])):
        entry = f"image {said}, {child.tag} number {number}"
        try:
            region = _region(child)
        except ValueError as error:
            problems.append(entry_problem(path, entry, str(error) or "cannot be read", _REMEDY))
            continue
        if isinstance(region, LossKind):
            losses.append(Loss(region, path, entry))
        else:
            shapes.append(Shape(child.get("label", ""), region, entry))
    return Picture(found, files.pictures[found], tuple(shapes), size=size, split=split, file=path)


def _z_order(element: Element) -> int:
    try:
        return int(element.get("z_order", "0"))
    except ValueError:
        return 0


def _region(element: Element) -> Region | LossKind:
    if element.tag == "polygon":
        numbers = [float(number) for point in element.get("points", "").split(";") for number in _two(point)]
        ring = ring_of(numbers)
        return Polygons((ring,), "centers") if len(ring) >= 3 else LossKind.FEW_CORNERS
    if element.tag == "mask":
        place = {key: _whole(element, key) for key in ("left", "top", "width", "height")}
        size = place["height"], place["width"]
        counts = [int(count) for count in element.get("rle", "").split(",")]
        return Bitmap(size, partial(mask_of_runs, counts, size, by_column=False), place["top"], place["left"])
    if element.tag == "ellipse":
        x, y, across, down = (float(element.get(key, "")) for key in ("cx", "cy", "rx", "ry"))
        ring = ellipse((x, y), (across, down), float(element.get("rotation", "0")))
        return Polygons((ring_of(ring.reshape(-1).tolist()),), "centers")
    if element.tag == "cuboid":
        return LossKind.OTHER_SHAPE
    return LossKind.BOX if element.tag == "box" else LossKind.NO_AREA


def _two(point: str) -> list[str]:
    numbers = point.split(",")
    if len(numbers) != 2:
        raise ValueError(f"has the point {point!r}, not x,y")
    return numbers


def _whole(element: Element, key: str) -> int:
    value = element.get(key, "")
    if not value.removeprefix("-").isdecimal():
        raise ValueError(f"has the {key} {value!r}, not a whole number")
    return int(value)
