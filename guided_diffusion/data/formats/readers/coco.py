"""COCO JSON: polygons, and run lengths with or without compression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated as Limited
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from guided_diffusion.data.boxes.coco import CocoCategory, CocoImage, size_of
from guided_diffusion.data.boxes.json_records import Record, entry_problem, file_problem, read_records, repeated
from guided_diffusion.data.formats.annotated import Annotated, Loss, LossKind, Picture, Shape
from guided_diffusion.data.formats.regions import Polygons, Region, ring_of
from guided_diffusion.data.formats.run_lengths import ColumnRuns, runs_of_text
from guided_diffusion.data.formats.source_files import SourceFiles, folder_of, split_of
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError

FORM = "COCO JSON"
LISTS = ("images", "annotations", "categories")


class RunLengths(BaseModel):
    """A mask: height and width, and its runs by columns."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    size: Limited[list[int], Field(min_length=2, max_length=2)]
    counts: str | list[int]


class SegmentedObject(Record):
    """An object of a picture with its outline, or its box alone."""

    form: ClassVar = (
        'write {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[x, y, x, y, x, y]]}, or '
        '{"size": [height, width], "counts": ...} as its segmentation'
    )

    id: int | str
    image_id: int
    category_id: int
    segmentation: RunLengths | list[list[float]] | list[float] | None = None
    iscrowd: int = 0


def is_coco(content: Any) -> bool:
    """Return whether the content of a JSON file has the lists of COCO."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in LISTS)


def read_coco(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the pictures of all COCO files of a source; classes in the order of their ids."""
    names = files.fitting(is_coco)
    if not names:
        found, remedy = "has no JSON with the lists images, annotations and categories", "export COCO JSON"
        raise DataError.of(files.root, found, remedy)
    problems: list[Problem] = []
    pictures: list[Picture] = []
    losses: list[Loss] = []
    declared: dict[str, None] = {}
    said_by: dict[str, str] = {}
    for name in names:
        path = files.files[name]
        content = files.json(name)
        categories = read_records(path, "category", content["categories"], CocoCategory, problems)
        images = read_records(path, "image", content["images"], CocoImage, problems)
        objects = read_records(path, "annotation", content["annotations"], SegmentedObject, problems)
        problems += _reference_problems(path, images, categories, objects)
        categories = sorted(categories, key=lambda category: category.id)
        declared |= dict.fromkeys(category.name for category in categories)
        of_image: dict[int, list[SegmentedObject]] = {}
        for each in objects:
            of_image.setdefault(each.image_id, []).append(each)
        by_id = {category.id: category.name for category in categories}
        for image in images:
            shapes = _shapes(path, of_image.get(image.id, ()), by_id, problems, losses)
            split = split_of(name)
            try:
                found = files.find(image.file_name, folder_of(name), split)
            except DataError as error:
                problems.append(Problem(f"{path}: image {image.id}", error.found, error.remedy, _kind(error)))
                continue
            if found in said_by:
                line = f"names image {found!r}, which {said_by[found]} names, too"
                problems.append(file_problem(path, line, "give one of the two files as source"))
            said_by[found] = path
            split = split or split_of(folder_of(found))
            pictures.append(Picture(found, files.pictures[found], shapes, size=size_of(image), split=split, file=path))
    if problems:
        raise DataError(problem_lines(problems))
    unlisted = [Loss(LossKind.UNLISTED, files.pictures[name], name) for name in files.pictures if name not in said_by]
    return Annotated(FORM, tuple(declared), tuple(pictures), (*losses, *unlisted))


def _kind(error: DataError) -> Any:
    return file_problem(error.path, error.found, error.remedy).kind


def _reference_problems(
    path: str, images: Sequence[CocoImage], categories: Sequence[CocoCategory], objects: Sequence[SegmentedObject]
) -> list[Problem]:
    problems = repeated(path, "image", [each.id for each in images], "give every image an id of its own")
    problems += repeated(path, "category", [each.id for each in categories], "give every class an id of its own")
    problems += repeated(path, "category named", [each.name for each in categories], "give every class its own name")
    known = {image.id for image in images}
    for each in objects:
        if each.image_id not in known:
            found, remedy = f"image_id {each.image_id} is not in images", "correct it, or add it to images"
            problems.append(entry_problem(path, f"annotation {each.id}", found, remedy))
    return problems


def _shapes(
    path: str, objects: Sequence[SegmentedObject], names: dict[int, str], problems: list[Problem], losses: list[Loss]
) -> tuple[Shape, ...]:
    shapes = []
    for each in objects:
        entry = f"annotation {each.id}"
        if each.category_id not in names:
            losses.append(Loss(LossKind.UNKNOWN_CLASS, path, f"{entry}, category_id {each.category_id}"))
            continue
        if not each.segmentation:
            losses.append(Loss(LossKind.BOX, path, entry))
            continue
        try:
            region = _region(each.segmentation)
        except ValueError as error:
            problems.append(entry_problem(path, entry, str(error), SegmentedObject.form))
            continue
        if region is None:
            losses.append(Loss(LossKind.FEW_CORNERS, path, entry))
            continue
        shapes.append(Shape(names[each.category_id], region, entry, crowd=bool(each.iscrowd)))
    return tuple(shapes)


def _region(segmentation: RunLengths | list[list[float]] | list[float]) -> Region | None:
    if isinstance(segmentation, RunLengths):
        size = segmentation.size[0], segmentation.size[1]
        counts = segmentation.counts
        if isinstance(counts, str):
            counts = runs_of_text(counts)
        return ColumnRuns(counts, size)
    lists = segmentation if isinstance(segmentation[0], list) else [segmentation]
    rings = tuple(ring for numbers in lists if len(ring := ring_of(numbers)) >= 3)
    return Polygons(rings, "centers") if rings else None
