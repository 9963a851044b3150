"""COCO JSON instance files: `images`, `categories` and `annotations`, whose `bbox` is [x, y, width, height]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from guided_diffusion.data.boxes.json_records import (
    Record,
    entry_problem,
    file_problem,
    path_problem,
    plain_path,
    read_object,
    read_records,
    repeated,
)
from guided_diffusion.data.boxes.records import AnnotationFile, BoxedImage, Corners, ObjectBox
from guided_diffusion.data.scan.problems import Problem

FORM = "COCO JSON, bbox = [x, y, width, height] in pixels"
_LISTS = "an object with the lists images, categories and annotations, as COCO instance files are"


class CocoImage(Record):
    """A picture; width and height may be missing."""

    form: ClassVar = 'write {"id": 1, "file_name": "a.png", "width": 640, "height": 480}'

    id: int
    file_name: Annotated[str, Field(min_length=1)]
    width: Annotated[int, Field(gt=0)] | None = None
    height: Annotated[int, Field(gt=0)] | None = None


class CocoCategory(Record):
    """A class."""

    form: ClassVar = 'write {"id": 1, "name": "scratch"}'

    id: int
    name: Annotated[str, Field(min_length=1)]


class CocoAnnotation(Record):
    """An object of a picture; its segmentation is not read."""

    form: ClassVar = (
        'write {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x, y, width, height]} with numbers in pixels'
    )

    id: int
    image_id: int
    category_id: int
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]
    iscrowd: int = 0

    @property
    def corners(self) -> Corners:
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


@dataclass(frozen=True)
class CocoRecords:
    """The records of a file that are right, and what is wrong with the others."""

    images: Sequence[CocoImage] = ()
    categories: Sequence[CocoCategory] = ()
    annotations: Sequence[CocoAnnotation] = ()
    problems: tuple[Problem, ...] = ()


def parse_coco(path: str) -> CocoRecords:
    """Return the records of a COCO file, each checked, and that their ids are known and there once."""
    content, problems = read_object(path, _LISTS)
    if content is None:
        return CocoRecords(problems=tuple(problems))
    missing = [key for key in ("images", "categories", "annotations") if not isinstance(content.get(key), list)]
    if missing:
        found = f"has no list {' and no list '.join(missing)}"
        remedy = f"write {_LISTS}"
        if "assets" in content:
            remedy = "it is an export of VoTT: name it after its project, such as parts-export.json"
        return CocoRecords(problems=(*problems, file_problem(path, found, remedy)))
    images = read_records(path, "image", content["images"], CocoImage, problems)
    categories = read_records(path, "category", content["categories"], CocoCategory, problems)
    annotations = read_records(path, "annotation", content["annotations"], CocoAnnotation, problems)
    problems += _reference_problems(path, content, images, categories, annotations)
    return CocoRecords(images, categories, annotations, tuple(problems))


def _reference_problems(
    path: str,
    content: dict[str, Any],
    images: Sequence[CocoImage],
    categories: Sequence[CocoCategory],
    annotations: Sequence[CocoAnnotation],
) -> list[Problem]:
    problems = [
        file_problem(path, f"the list {key} is empty", remedy)
        for key, remedy in (
            ("images", "list every picture there, those without objects, too"),
            ("categories", "list the classes there"),
        )
        if not content[key]
    ]
    problems += repeated(path, "image", [each.id for each in images], "give every image an id of its own")
    problems += repeated(path, "category", [each.id for each in categories], "give every class an id of its own")
    problems += repeated(path, "category named", [each.name for each in categories], "give every class its own name")
    problems += repeated(path, "annotation", [each.id for each in annotations], "give every object an id of its own")
    for image in images:
        if wrong := path_problem(image.file_name):
            remedy = "write the name as it is in the folder of images, with its sub-folder if it has one"
            problems.append(entry_problem(path, f"image {image.id}", f"file_name {wrong}", remedy))
    # Ids of records that were refused are no second mistake.
    known = {"image_id": _ids(content["images"]), "category_id": _ids(content["categories"])}
    lists = {"image_id": "images", "category_id": "categories"}
    for each in annotations:
        for key, ids in known.items():
            if (value := getattr(each, key)) not in ids:
                found = f"{key} {value} is not in {lists[key]}"
                remedy = f"correct it, or add it to {lists[key]}"
                problems.append(entry_problem(path, f"annotation {each.id}", found, remedy))
    return problems


def _ids(items: Sequence[Any]) -> set[int]:
    ids = set()
    for item in items:
        value = item.get("id") if isinstance(item, dict) else None
        if isinstance(value, int | float | str) and str(value).lstrip("-").isdigit():
            ids.add(int(value))
    return ids


def read_coco(path: str) -> AnnotationFile:
    """Return the pictures and objects of a COCO file; classes in the order of their ids. Crowds are left out."""
    records = parse_coco(path)
    categories = sorted(records.categories, key=lambda category: category.id)
    class_ids = {category.id: index for index, category in enumerate(categories)}
    of_image: dict[int, list[ObjectBox]] = {}
    left_out: Counter[str] = Counter()
    for each in records.annotations:
        if each.iscrowd:
            left_out["crowds (iscrowd 1)"] += 1
        elif each.category_id in class_ids:
            found = ObjectBox(class_ids[each.category_id], each.corners, f"annotation {each.id}")
            of_image.setdefault(each.image_id, []).append(found)
    images = [
        BoxedImage(plain_path(image.file_name), tuple(of_image.pop(image.id, ())), size_of(image))
        for image in records.images
        if not path_problem(image.file_name)
    ]
    names = tuple(category.name for category in categories)
    return AnnotationFile(path, FORM, names, tuple(images), records.problems, left_out)


def size_of(image: CocoImage) -> tuple[int, int] | None:
    """Return height and width of a picture, None where the file does not have both."""
    return None if image.width is None or image.height is None else (image.height, image.width)
