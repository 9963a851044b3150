"""YOLO's text of outlines, as Ultralytics and Roboflow write it, by its data.yaml."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.boxes.json_records import entry_problem
from guided_diffusion.data.formats.annotated import Annotated, Loss, LossKind, Picture, Shape
from guided_diffusion.data.formats.regions import NOWHERE, Painted, Polygons, Ring, ring_of
from guided_diffusion.data.formats.source_files import SourceFiles, folder_of, normal_name
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError

FORM = "YOLO outlines"
_KEYS = {"train": "train", "val": "val", "test": "test"}
_LONGEST = 1 << 20
"""Bytes of a data.yaml."""
_BEYOND = 100.0
"""Shares of the image beyond which a corner is a mistake, such as one in pixels."""


@dataclass(frozen=True, eq=False)
class ShareOutline:
    """An outline whose corners are shares of width and height, as Ultralytics reads it: in whole pixels, cut off."""

    ring: Ring

    def paint(self, size: Size) -> Painted:
        if (self.ring.max(0) <= 0).any() or (self.ring.min(0) >= 1).any():
            return NOWHERE
        painted = Polygons((self.ring * size[::-1],), "corners").paint(size)
        # Corners at the right and lower border are in no pixel, and nothing is lost there.
        return replace(painted, cut=bool(self.ring.min() < 0 or self.ring.max() > 1))


def is_yolo(files: SourceFiles, name: str) -> bool:
    """Return whether a file is a data.yaml with names and splits."""
    try:
        content = _read_yaml(files, name)
    except DataError:
        return False
    return "names" in content and bool(_KEYS.keys() & content.keys())


def read_yolo(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the images of the splits of data.yaml; classes in its order. An image without a text is background."""
    found = [name for name in files.named(".yaml", ".yml") if is_yolo(files, name)]
    if len(found) != 1:
        names = ", ".join(found) or "none"
        remedy = "give the data.yaml itself as source" if found else "put one there with names, train and val"
        raise DataError.of(files.root, f"needs one data.yaml, and has {names}", remedy)
    path, content = files.files[found[0]], _read_yaml(files, found[0])
    declared = _names(path, content["names"])
    problems: list[Problem] = []
    losses: list[Loss] = []
    pictures: dict[str, Picture] = {}
    for key, split in _KEYS.items():
        for name in _images_of(files, found[0], content, key, problems):
            if name in pictures and pictures[name].split != split:
                if content.get(key) == content.get(pictures[name].split):
                    continue  # one folder under two keys
                line = f"image {name!r} is in {pictures[name].split} and in {split}"
                problems.append(entry_problem(path, key, line, "keep it in one of them"))
            text = _text_of(files, name)
            shapes = _shapes(files, text, declared, problems, losses) if text else ()
            file = files.files[text] if text else path
            pictures[name] = Picture(name, files.pictures[name], shapes, split=split, file=file)
    if problems:
        raise DataError(problem_lines(problems))
    losses += [Loss(LossKind.UNLISTED, path, name) for name, path in files.pictures.items() if name not in pictures]
    losses += [Loss(LossKind.NO_IMAGE, files.files[name], name) for name in _texts_without_image(files)]
    return Annotated(FORM, tuple(declared.values()), tuple(pictures.values()), tuple(losses))


def _read_yaml(files: SourceFiles, name: str) -> dict[str, Any]:
    """Return the content of a YAML file; DataError where it is none, or has aliases, which may stand for gigabytes."""
    content, path = files.content(name), files.files[name]
    remedy = "write lines such as 'names: [scratch]' and 'train: images/train'"
    try:
        if len(content) > _LONGEST:
            raise DataError.of(path, "is larger than 1 MB", remedy)
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(content)):
            raise DataError.of(path, "has aliases (*name)", "write out what they stand for")
        value = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" at line {place.line + 1}" if place else ""
        raise DataError.of(path, f"is not YAML{where}", remedy) from error
    if not isinstance(value, dict):
        raise DataError.of(path, "has no keys and values", remedy)
    return value


def _names(path: str, names: Any) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    right = isinstance(names, dict) and names and all(isinstance(key, int) for key in names)
    if not right or not all(isinstance(name, str | int | float) for name in names.values()):
        raise DataError.of(path, "has names that are no list", "write 'names: [scratch, dent]'")
    declared = {key: str(names[key]) for key in sorted(names)}
    if len(set(declared.values())) < len(declared):
        raise DataError.of(path, "has two classes of one name", "give every class its own name")
    return declared


def _images_of(
    files: SourceFiles, yaml_name: str, content: dict[str, Any], key: str, problems: list[Problem]
) -> list[str]:
    """Return the images of a split: those of its folders, or of its lists of paths."""
    entries = content.get(key) or []
    base = posixpath.join(folder_of(yaml_name), _inner(str(content.get("path") or "")))
    images: list[str] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        folder = _existing_folder(files, folder_of(yaml_name), base, str(entry))
        if folder is not None:
            start = f"{folder}/" if folder else ""
            images += [name for name in files.pictures if name.startswith(start)]
        else:
            found = f"{entry!r} is no folder of images in {files.image_root}"
            problems.append(entry_problem(files.files[yaml_name], key, found, "write it relative to data.yaml"))
    return sorted(set(images))


def _inner(path: str) -> str:
    """Return a path that other machines may have written, without what leads out of the source."""
    return "" if path.startswith(("/", "~")) or ":" in path else path.replace("\\", "/")


def _existing_folder(files: SourceFiles, beside: str, base: str, entry: str) -> str | None:
    entry, beside, base = (normal_name(text) for text in (entry.replace("\\", "/").rstrip("/"), beside, base))
    # Roboflow writes ../train/images for train/images beside data.yaml.
    inside = entry
    while inside.startswith("../"):
        inside = inside[3:]
    for start in (base, beside, ""):
        for name in (entry, inside):
            folder = posixpath.normpath(posixpath.join(start, name)).removeprefix(".")
            if not folder.startswith(("..", "/")) and any(n.startswith(f"{folder}/") for n in files.pictures):
                return folder
    return None


def _text_of(files: SourceFiles, image: str) -> str:
    """Return the text of an image: in labels/ in place of the last images/, or beside it; "" where there is none."""
    known = files.by_normal_name
    return next((known[name] for name in _usual_texts(image) if name in known), "")


def _usual_texts(image: str) -> list[str]:
    stem = image.rpartition(".")[0]
    before, found, after = f"/{stem}".rpartition("/images/")
    return [*([f"{before}/labels/{after}.txt".lstrip("/")] if found else []), f"{stem}.txt"]


def _texts_without_image(files: SourceFiles) -> list[str]:
    """Return the texts of outlines where those of images are, such as one named in another case than its image."""
    usual = [name for image in files.pictures for name in _usual_texts(image)]
    folders, of_images = {folder_of(name) for name in usual}, {*usual}
    return [
        name
        for normal, name in files.by_normal_name.items()
        if normal.endswith(".txt") and normal not in of_images and folder_of(normal) in folders
        if _has_outlines(files.files[name])
    ]


def _has_outlines(path: str) -> bool:
    """Return whether the first line of a text is a class and coordinates: others list classes or images."""
    with open(path, encoding="utf-8", errors="replace") as file:
        fields = next((line.split() for line in file if line.strip()), [])
    try:
        return len([float(field) for field in fields]) >= 5
    except ValueError:
        return False


def _shapes(
    files: SourceFiles, name: str, declared: dict[int, str], problems: list[Problem], losses: list[Loss]
) -> tuple[Shape, ...]:
    path = files.files[name]
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    shapes = []
    for number, line in enumerate(lines, start=1):
        fields, entry = line.split(), f"line {number}"
        if not fields:
            continue
        try:
            class_id = int(float(fields[0]))
            ring = ring_of([float(field) for field in fields[1:]])
            if np.abs(ring).max(initial=0) > _BEYOND:
                raise ValueError("corners are not shares of width and height")
        except (ValueError, OverflowError) as error:
            found = str(error) if "corner" in str(error) or "coord" in str(error) else f"is {line[:40]!r}"
            remedy = "write the class and x y x y ... as shares of width and height"
            problems.append(entry_problem(path, entry, found, remedy))
            continue
        if class_id not in declared:
            losses.append(Loss(LossKind.UNKNOWN_CLASS, path, f"{entry}, class {class_id}"))
        elif len(ring) < 3:
            losses.append(Loss(LossKind.BOX if len(ring) == 2 else LossKind.FEW_CORNERS, path, entry))
        else:
            shapes.append(Shape(declared[class_id], ShareOutline(ring), entry))
    return tuple(shapes)
