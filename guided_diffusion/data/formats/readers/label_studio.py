"""Label Studio's JSON (full and minimal): brush masks, polygons and ellipses; and its PNG export of brush masks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.boxes.json_records import entry_problem
from guided_diffusion.data.files import open_image, open_mask
from guided_diffusion.data.formats.annotated import Annotated, Loss, LossKind, Picture, Shape
from guided_diffusion.data.formats.regions import Bitmap, Bits, Polygons, Region, ellipse, ring_of
from guided_diffusion.data.formats.run_lengths import brush_alpha
from guided_diffusion.data.formats.source_files import SourceFiles, first_names, folder_of, split_of
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError

FORM, PNG_FORM = "Label Studio JSON", "Label Studio PNG"
_REMEDY = "export the project again as JSON"
PNG_NAME = re.compile(
    r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-[^-]*-(?P<tag>[^-]+)-(?P<label>.+)-\d+\.png"
)
"""Names of the PNG export; the user's name has no hyphen there."""
_UPLOADED = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the names of files that are uploaded."""
_BOXES = ("rectanglelabels", "rectangle")
_OTHER = ("imageDataURL", "vertices")
"""Keys of areas that are not read: of BitMask, and of Vector."""
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")


@dataclass(frozen=True, eq=False)
class _Task:
    """A task of an export: its image, and what is annotated in it."""

    number: str
    images: Mapping[str, str]
    """The addresses that may be that of its image, by their keys."""
    results: tuple[dict[str, Any], ...] | None
    """None: nobody has annotated it."""
    rejected: int = 0
    """Annotations that another one stands for, or that were canceled."""
    annotation: Any = None
    """The number of the annotation that counts, None where it is not said."""

    def of_images(self) -> set[tuple[str, Any]]:
        """Return which images of the task its areas are in: (name of the tag, place in a list of images)."""
        areas = (each for each in self.results or () if "original_width" in each)
        places = {(str(each.get("to_name") or ""), each.get("item_index") or 0) for each in areas}
        return {(tag, item) for tag, item in places if tag or item}


def is_label_studio(content: Any) -> bool:
    """Return whether the content of a JSON file is an export of tasks, full or minimal."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(task, dict) for task in content)
        and (
            all("data" in task for task in content)
            or all("id" in task and _images_of(task) and "annotation_id" in task for task in content)
        )
    )


def read_label_studio(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the annotated images of all exports of a source; classes in alphabetical order.

    Of several annotations of a task the one that is said to be the truth counts, else the last.
    """
    problems: list[Problem] = []
    losses: list[Loss] = []
    pictures: dict[str, Picture] = {}
    named: set[str] = set()
    for name, task, found in _tasks(files, problems, losses, named):
        path, entry = files.files[name], f"task {task.number}"
        if found in pictures:
            problems.append(entry_problem(path, entry, f"is of image {found!r}, as another", "take one away"))
        shapes, size = _shapes(path, entry, task.results or (), problems, losses)
        split = split_of(name) or split_of(folder_of(found))
        pictures[found] = Picture(found, files.pictures[found], shapes, size=size, split=split, file=path)
    if problems:
        raise DataError(problem_lines(problems))
    declared = sorted({shape.name for picture in pictures.values() for shape in picture.shapes})
    return Annotated(FORM, tuple(declared), tuple(pictures.values()), (*losses, *_unlisted(files, named)))


def read_label_studio_png(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the images of the PNG export; which image a task has is said by the JSON export beside it."""
    masks: dict[str, list[tuple[int, str, re.Match[str]]]] = {}
    for name in sorted(files.files):
        if match := PNG_NAME.fullmatch(name.rpartition("/")[2]):
            masks.setdefault(match["task"], []).append((int(match["annotation"]), name, match))
    if not masks:
        found = "has no PNG named as task-1-annotation-2-by-3-tag-scratch-0.png"
        raise DataError.of(files.root, found, "export the project as Brush labels to PNG")
    problems: list[Problem] = []
    losses: list[Loss] = []
    pictures: list[Picture] = []
    known: set[str] = set()  # images: JSON and JSON-MIN may lie beside each other
    named: set[str] = set()
    for _, task, found in _tasks(files, problems, losses, named, annotated_only=False):
        if found in known:
            continue
        known.add(found)
        of_task, split = masks.pop(task.number, []), split_of(folder_of(found))
        if not of_task:
            if task.results is None:
                losses.append(Loss(LossKind.NOT_ANNOTATED, files.root, f"task {task.number}"))
            elif task.results:  # polygons, boxes and others, which this export leaves out
                losses.append(Loss(LossKind.NO_MASK, files.root, f"task {task.number}"))
            else:  # nothing is to be seen in it
                pictures.append(Picture(found, files.pictures[found], split=split, file=files.pictures[found]))
            continue
        numbers = {annotation for annotation, _, _ in of_task}
        last = task.annotation if task.annotation in numbers else max(numbers)
        if not task.rejected:  # else they are counted
            losses += [Loss(LossKind.REJECTED, files.files[n], n) for annotation, n, _ in of_task if annotation != last]
        with open_image(files.pictures[found]) as image:
            size = image.height, image.width
        chosen = [(n, match) for annotation, n, match in of_task if annotation == last]
        shapes = tuple(
            Shape(_label(match, classes), Bitmap(size, partial(_mask_bits, files.files[n]), whole=True), n)
            for n, match in chosen
        )
        file = files.files[chosen[0][0]]
        pictures.append(Picture(found, files.pictures[found], shapes, size=size, split=split, file=file))
    if problems:
        raise DataError(problem_lines(problems))
    if masks:
        what = "tasks " + first_names(sorted(masks)) + " have masks, but no JSON says which images they are of"
        raise DataError.of(files.root, what, "put the JSON export (or JSON-MIN) of the project beside them")
    declared = sorted({shape.name for picture in pictures for shape in picture.shapes})
    return Annotated(PNG_FORM, tuple(declared), tuple(pictures), (*losses, *_unlisted(files, named)))


def _unlisted(files: SourceFiles, named: set[str]) -> list[Loss]:
    """Return the losses of the images that no task is of; named: those that one is of."""
    others = (name for name in files.pictures if name not in named and not PNG_NAME.fullmatch(name.rpartition("/")[2]))
    return [Loss(LossKind.UNLISTED, files.pictures[name], name) for name in others]


def _tasks(
    files: SourceFiles, problems: list[Problem], losses: list[Loss], named: set[str], *, annotated_only: bool = True
) -> Iterator[tuple[str, _Task, str]]:
    """Yield (file, task, image in `pictures`) of all exports; the images of all tasks are added to `named`."""
    names = files.fitting(is_label_studio)
    if not names and annotated_only:
        raise DataError.of(files.root, "has no JSON list of tasks", _REMEDY)
    for name in names:
        path = files.files[name]
        for number, item in enumerate(files.json(name), start=1):
            task = _task(item, number)
            losses += [Loss(LossKind.REJECTED, path, f"task {task.number}")] * task.rejected
            skipped = task.results is None and annotated_only
            if skipped:
                losses.append(Loss(LossKind.NOT_ANNOTATED, path, f"task {task.number}"))
            try:
                found = _image(files, task, name)
            except DataError as error:
                if not skipped:
                    problems.append(entry_problem(path, f"task {task.number}", error.found, error.remedy))
                continue
            named.add(found)
            if not skipped:
                yield name, task, found


def _task(item: dict[str, Any], number: int) -> _Task:
    of_task = str(item.get("id", number))
    if "data" not in item:  # JSON-MIN
        lists = [value for value in item.values() if isinstance(value, list)]
        results = [each for value in lists for each in value if isinstance(each, dict)]
        return _Task(of_task, _images_of(item), tuple({"value": each, **each} for each in results))
    images = _images_of(item["data"]) if isinstance(item["data"], dict) else {}
    every = [each for each in item.get("annotations") or [] if isinstance(each, dict)]
    valid = [each for each in every if not each.get("was_cancelled")]
    if not valid:
        return _Task(of_task, images, None, len(every))
    chosen = next((each for each in valid if each.get("ground_truth")), valid[-1])
    results = [each for each in chosen.get("result") or [] if isinstance(each, dict)]
    return _Task(of_task, images, tuple(results), len(every) - 1, chosen.get("id"))


def _images_of(data: dict[str, Any]) -> dict[str, str]:
    """Return the addresses in the data of a task that end as pictures do, by their keys."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    return {key: text for key, text in texts.items() if _path(text).lower().endswith(_PICTURES)}


def _image(files: SourceFiles, task: _Task, name: str) -> str:
    """Return the image in `pictures` of a task of the file `name`; DataError where that would be a guess."""
    places = task.of_images()
    if len(places) > 1 or any(item for _, item in places):
        said = first_names(sorted({f"{tag} {item}" if item else tag for tag, item in places}))
        raise DataError.of(name, f"has areas in several images ({said})", "give each image a task of its own")
    if not task.images:
        raise DataError.of(name, "has no address that ends as an image does", "write it under the key image")
    tag = next((tag for tag, _ in places), "")
    key = tag if tag in task.images else "image"
    addresses = [task.images[key]] if key in task.images else list(task.images.values())
    found: dict[str, None] = {}
    missing: list[DataError] = []
    for address in addresses:
        try:
            found[_find(files, address, name)] = None
        except DataError as error:
            missing.append(error)
    if len(found) > 1:
        line = f"may be of {' or of '.join(found)}"
        raise DataError.of(name, line, "write the image that is annotated under the key image")
    if not found:
        raise missing[0]
    return next(iter(found))


def _path(address: str) -> str:
    """Return the path in an address: /data/local-files/?d=a/b.png, s3://bucket/a/b.png, C:\\a\\b.png."""
    parts = urlsplit(address.replace("\\", "/"))
    inner = parse_qs(parts.query).get("d", [""])[0]
    return (inner or unquote(parts.path)).lstrip("/")


def _find(files: SourceFiles, address: str, name: str) -> str:
    path = _path(address)
    split = split_of(name)
    last = path.rpartition("/")[2]
    try:
        return files.find(path, folder_of(name), split)
    except DataError:
        if not _UPLOADED.match(last):
            raise
    return files.find(last[9:], folder_of(name), split)


def _shapes(
    path: str, task: str, results: Sequence[dict[str, Any]], problems: list[Problem], losses: list[Loss]
) -> tuple[tuple[Shape, ...], Size | None]:
    shapes: list[Shape] = []
    size: Size | None = None
    labeled = {result.get("id") for result in results if _labels_of(result)}
    for number, result in enumerate(results, start=1):
        entry = f"{task}, region number {number}"
        labels, value = _labels_of(result), result.get("value")
        if not labels and result.get("id") in labeled and result.get("id") is not None:
            continue  # the same region, without its label
        if not isinstance(value, dict) or "original_width" not in result:
            losses.append(Loss(LossKind.NO_AREA, path, entry))
            continue
        try:
            own = int(result["original_height"]), int(result["original_width"])
            region = _region(value, str(result.get("type", "")), own)
        except (ValueError, TypeError, KeyError) as error:
            found = str(error) if isinstance(error, ValueError) else "is not a region of Label Studio"
            problems.append(entry_problem(path, entry, found, _REMEDY))
            continue
        if size not in (None, own):
            found = f"is of an image of {own[1]}x{own[0]} pixels, another one of {size[1]}x{size[0]}"
            problems.append(entry_problem(path, entry, found, _REMEDY))
        size = own
        if isinstance(region, LossKind):
            losses.append(Loss(region, path, entry))
        else:
            shapes.append(Shape(labels[0] if labels else "no label", region, entry))
            if more := labels[1:]:
                losses.append(Loss(LossKind.MORE_LABELS, path, f"{entry}: {', '.join(more)}", len(more)))
    return tuple(shapes), size


def _labels_of(result: dict[str, Any]) -> list[str]:
    value = result.get("value")
    kinds = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels")
    labels = next((value[kind] for kind in kinds if value.get(kind)), None) if isinstance(value, dict) else None
    return [str(label) for label in labels] if isinstance(labels, list) else []


def _region(value: dict[str, Any], kind: str, size: Size) -> Region | LossKind:
    if "rle" in value:
        return Bitmap(size, partial(_brush_bits, value["rle"], size), whole=True)
    if "points" in value:
        numbers = [float(number) for point in value["points"] for number in point]
        # Percent of width and height.
        ring = ring_of(numbers) * (size[1] / 100, size[0] / 100)
        return Polygons((ring,), "centers") if len(ring) >= 3 else LossKind.FEW_CORNERS
    if "radiusX" in value:
        # The center and the radii are in percent, and the picture of that, not the percents, is turned.
        x, y, across, down = (float(value[key]) / 100 for key in ("x", "y", "radiusX", "radiusY"))
        height, width = size
        ring = ellipse((x * width, y * height), (across * width, down * height), float(value.get("rotation") or 0))
        return Polygons((ring_of(ring.reshape(-1).tolist()),), "centers")
    if any(key in value for key in _OTHER):
        return LossKind.OTHER_SHAPE
    return LossKind.BOX if kind in _BOXES or "height" in value else LossKind.NO_AREA


def _brush_bits(content: Sequence[int], size: Size) -> Bits:
    return brush_alpha(content, size) > 0


def _mask_bits(path: str) -> Bits:
    values = np.asarray(open_mask(path))
    return (values if values.ndim == 2 else values[..., -1]) > 0


def _label(match: re.Match[str], classes: Sequence[str]) -> str:
    """Return the class in the name of a PNG; classes: known names, which may have hyphens, as the tag may."""
    said = f"{match['tag']}-{match['label']}"
    return next((name for name in sorted(classes, key=len, reverse=True) if said.endswith(f"-{name}")), match["label"])
