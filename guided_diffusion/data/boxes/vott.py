"""VoTT 2.x JSON: the export of a project, or one file an asset. Boxes are left, top, width, height in pixels.

Not labeled is another thing than without objects: VoTT keeps a state for each picture, which is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
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

FORM = "VoTT JSON, boundingBox = left, top, width, height in pixels"
NOT_VISITED = 0
"""State of a picture that nobody has looked at; one that was visited and has no regions is a good part."""
VIDEO = 2
"""Type of a video as a whole, whose frames are assets of their own."""
_EXPORT = 'an object with "tags" and "assets", as "VoTT JSON" of the export settings writes it'


class _Tag(Record):
    form: ClassVar = 'write {"name": "scratch"}'

    name: Annotated[str, Field(min_length=1)]


class _Size(Record):
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class _Asset(Record):
    name: Annotated[str, Field(min_length=1)]
    id: str = ""
    size: _Size | None = None
    state: int | None = None
    type: int = 1


class _BoundingBox(Record):
    left: float
    top: float
    width: float
    height: float


class _Point(Record):
    x: float
    y: float


class _Region(Record):
    id: str = ""
    type: str = "RECTANGLE"
    tags: tuple[str, ...] = ()
    boundingBox: _BoundingBox | None = None
    points: tuple[_Point, ...] | None = None

    def corners(self) -> Corners | None:
        """Return its box, that of its points where it has none; None without points."""
        if self.boundingBox is not None:
            box = self.boundingBox
            return box.left, box.top, box.left + box.width, box.top + box.height
        if not self.points:
            return None
        across, down = [point.x for point in self.points], [point.y for point in self.points]
        return min(across), min(down), max(across), max(down)


class _Entry(Record):
    form: ClassVar = (
        "export it again: an asset has a name, and regions with tags and a boundingBox (left, top, width, height)"
    )

    asset: _Asset
    regions: tuple[_Region, ...] = ()

    @property
    def labeled(self) -> bool:
        """Whether somebody looked at the picture; an unknown state tells nothing about one without regions."""
        return bool(self.regions) or self.asset.state not in (None, NOT_VISITED)


def read_vott_export(path: str) -> AnnotationFile:
    """Return the pictures and objects of `<project>-export.json`; classes in the order of its tags."""
    content, problems = read_object(path, _EXPORT)
    if content is None:
        return AnnotationFile(path, FORM, problems=tuple(problems))
    assets = content.get("assets")
    if not isinstance(assets, dict) or not assets:
        remedy = f"write {_EXPORT}"
        if isinstance(content.get("annotations"), list):
            remedy = "it is a COCO file: name it annotations.json"
        elif not isinstance(assets, dict) and isinstance(content.get("asset"), dict):
            remedy = "it is the file of one asset: name it <id>-asset.json, beside those of the others"
        elif "assets" in content:
            remedy = 'VoTT wrote an empty export: export again, with "only tagged assets" off'
        problems.append(file_problem(path, "has no assets", remedy))
        return AnnotationFile(path, FORM, problems=tuple(problems))
    if not isinstance(content.get("tags"), list) or not content["tags"]:
        problems.append(file_problem(path, "has no tags", 'list the classes as "tags": [{"name": "scratch"}]'))
        return AnnotationFile(path, FORM, problems=tuple(problems))
    tags = read_records(path, "tag", content["tags"], _Tag, problems)
    names = tuple(tag.name for tag in tags)
    problems += repeated(path, "tag", names, "give every class a name of its own")
    entries = _entries(path, assets.items(), problems)
    return _annotations(path, [(path, *entry) for entry in entries], names, problems)


def read_vott_assets(paths: Sequence[str]) -> AnnotationFile:
    """Return the pictures and objects of `<id>-asset.json` files, one a picture; classes in alphabetical order."""
    problems: list[Problem] = []
    entries: list[tuple[str, str, _Entry]] = []
    for path in paths:
        content, mistakes = read_object(path, 'an object with "asset" and "regions"')
        problems += mistakes
        if content is not None:
            entries += [(path, *entry) for entry in _entries(path, [("", content)], problems)]
    names = tuple(sorted({tag for _, _, entry in entries for region in entry.regions for tag in region.tags}))
    return _annotations(paths[0], entries, names, problems)


def _entries(path: str, items: Iterable[tuple[str, Any]], problems: list[Problem]) -> list[tuple[str, _Entry]]:
    """Return what each asset is called, and its record."""
    entries = []
    for key, item in items:
        wrong: list[Problem] = []
        found = read_records(path, "asset", [item], _Entry, wrong)
        asset = item.get("asset") if isinstance(item, dict) else None
        called = f"asset {(isinstance(asset, dict) and asset.get('name')) or key}".strip()
        problems += [entry_problem(path, called, each.found, each.remedy) for each in wrong]
        entries += [(called, entry) for entry in found]
    return entries


def _annotations(
    path: str, entries: Sequence[tuple[str, str, _Entry]], names: tuple[str, ...], problems: list[Problem]
) -> AnnotationFile:
    """Return the file of (path, what it is called, record) of each asset."""
    class_ids = {name: index for index, name in enumerate(names)}
    left_out: Counter[str] = Counter()
    images = []
    for source, called, entry in entries:
        asset = entry.asset
        if asset.type == VIDEO:
            left_out["videos, whose frames are assets of their own"] += 1
        elif not entry.labeled:
            left_out["pictures that are not labeled yet (state 0)"] += 1
        elif wrong := path_problem(asset.name):
            problems.append(entry_problem(source, called, f"name {wrong}", "write the name of the picture alone"))
        else:
            size = None if asset.size is None else (asset.size.height, asset.size.width)
            objects = _objects(source, called, entry.regions, class_ids, problems, left_out)
            images.append(BoxedImage(plain_path(asset.name), tuple(objects), size))
    return AnnotationFile(path, FORM, names, tuple(images), tuple(problems), left_out)


def _objects(
    path: str,
    called: str,
    regions: Sequence[_Region],
    class_ids: dict[str, int],
    problems: list[Problem],
    notes: Counter[str],
) -> list[ObjectBox]:
    """Return an object for each region and tag."""
    objects = []
    for number, region in enumerate(regions, start=1):
        entry = f"region {region.id or number} of {called}"
        corners = region.corners()
        if corners is None:
            problems.append(entry_problem(path, entry, "has neither boundingBox nor points", "draw it again"))
            continue
        if not region.tags:
            problems.append(entry_problem(path, entry, "has no tag", "give it one, or remove the region"))
        if region.boundingBox is None:
            notes["outlines without boundingBox, of which the box of their points is taken (all kept)"] += 1
        if len(region.tags) > 1:
            notes["regions with several tags, each an object (all kept)"] += 1
        for tag in dict.fromkeys(region.tags):
            if tag in class_ids:
                objects.append(ObjectBox(class_ids[tag], corners, entry))
            else:
                remedy = f"use one of {', '.join(class_ids)}, or add it to the tags"
                problems.append(entry_problem(path, entry, f"tag {tag!r} is not among the tags", remedy))
    return objects
