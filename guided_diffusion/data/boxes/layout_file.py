"""Layouts of a JSON file: what images are to be made of, as docs/boxes.md describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.boxes.asked import AskedLayout, AskedObject, background_of, inside_of_shares
from guided_diffusion.data.boxes.borders import box_mistake, clipped_box
from guided_diffusion.data.boxes.json_records import (
    Record,
    entry_problem,
    file_problem,
    read_object,
    read_records,
    repeated,
)
from guided_diffusion.data.boxes.layouts import PictureObjects
from guided_diffusion.data.boxes.placed_layouts import LayoutPlacer
from guided_diffusion.data.boxes.records import Corners
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.near_names import suggestion

LAYOUT_FILE = "objects.json"
"""The file of this form that `sample` leaves beside its images."""
FORM = 'write {"units": "shares", "layouts": [{"name": "a", "objects": [{"class": "scratch", "box": [0, 0, 0.5, 1]}]}]}'
_UNITS = 'write "units": "shares" for shares of width and height, or "pixels", with "size": [height, width]'
_SHARES: Size = (1, 1)

_Class = Annotated[str, Field(min_length=1)] | Annotated[int, Field(strict=True)]
_StyleSeed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _Strict(Record):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, populate_by_name=True)


class BackgroundRecord(_Strict):
    """The class of an image as a whole, and its style."""

    form: ClassVar = 'write {"class": "background", "style_seed": 1}, or the class alone'

    name: _Class = Field(alias="class")
    style_seed: _StyleSeed | None = None


class ObjectRecord(_Strict):
    """An object; its box has two corners."""

    form: ClassVar = (
        'write {"class": "scratch", "box": [x0, y0, x1, y1]} with the left, upper, right and lower border, and if you '
        'like "style_seed": 1'
    )

    name: _Class = Field(alias="class")
    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    style_seed: _StyleSeed | None = None

    @property
    def corners(self) -> Corners:
        x0, y0, x1, y1 = self.box
        return x0, y0, x1, y1


class LayoutRecord(_Strict):
    """One image; its objects are checked one by one."""

    form: ClassVar = (
        'write {"name": "a", "background": "background", "objects": [...]}, of which only objects is needed'
    )

    name: Annotated[str, Field(min_length=1, pattern=r"^[^\\:\x00-\x1f]+$")] | None = None
    background: Any = None
    objects: list[Any]
    size: (
        Annotated[list[Annotated[int, Field(strict=True, gt=0, le=2**20)]], Field(min_length=2, max_length=2)] | None
    ) = None
    inside: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    lineage: dict[str, Any] | None = None


class FileRecord(_Strict):
    """The file as a whole."""

    form: ClassVar = FORM

    schema_file: str | None = Field(None, alias="$schema")
    units: Literal["shares", "pixels"]
    size: list[int] | None = None
    layouts: list[Any]


def read_layout_file(path: str, names: Sequence[str], placer: LayoutPlacer) -> list[AskedLayout]:
    """Return the layouts of a file, placed as the model sees a picture of their size; shares are of the image itself.

    names: of the classes. Raises DataError with a line for each mistake.
    """
    content, problems = read_object(path, f"an object: {FORM.removeprefix('write ')}")
    layouts: list[AskedLayout] = []
    if content is not None:
        file = _file_of(path, content, problems)
        if file is not None:
            layouts = _Reader(path, names, placer, problems).read(file)
    if problems:
        raise DataError(problem_lines(problems))
    return layouts


def _file_of(path: str, content: dict[str, Any], problems: list[Problem]) -> FileRecord | None:
    if content.get("units") not in ("shares", "pixels"):
        found = f"units is {content['units']!r}" if "units" in content else "does not say in which units its boxes are"
        problems.append(file_problem(path, found, _UNITS))
    elif not isinstance(content.get("layouts"), list) or not content["layouts"]:
        found = "the list layouts is empty" if content.get("layouts") == [] else "has no list layouts"
        problems.append(file_problem(path, found, FORM))
    else:
        wrong: list[Problem] = []
        found = read_records(path, "file", [content], FileRecord, wrong)
        problems += [file_problem(path, problem.found, problem.remedy) for problem in wrong]
        return found[0] if found else None
    return None


class _Reader:
    """Reads the layouts of one file; what is wrong with them is added to `problems`."""

    def __init__(self, path: str, names: Sequence[str], placer: LayoutPlacer, problems: list[Problem]):
        self.path, self.names, self.placer, self.problems = path, names, placer, problems
        self.background = placer.maker.background_class

    def read(self, file: FileRecord) -> list[AskedLayout]:
        layouts = []
        for number, item in enumerate(file.layouts, start=1):
            named = item.get("name") if isinstance(item, dict) else None
            entry = f"layout {named}" if isinstance(named, str) and named else f"layout number {number}"
            wrong: list[Problem] = []
            found = read_records(self.path, "layout", [item], LayoutRecord, wrong)
            for problem in wrong:
                self._wrong(entry, problem.found, problem.remedy)
            for record in found:
                stem = record.name or f"layout_{number - 1:06d}"
                layouts.append(self._layout(entry, stem, record, file))
        remedy = "give every layout a name of its own: images are named by them"
        self.problems += repeated(self.path, "layout", [layout.stem for layout in layouts], remedy)
        return layouts

    def _wrong(self, entry: str, found: str, remedy: str) -> None:
        self.problems.append(entry_problem(self.path, entry, found, remedy))

    def _layout(self, entry: str, stem: str, record: LayoutRecord, file: FileRecord) -> AskedLayout:
        if any(part == "" or part.startswith(".") for part in stem.split("/")):  # hidden files are no part of a dataset
            found = f"name {stem!r} is no name of a file below a folder, or that of a hidden one"
            self._wrong(entry, found, "write one such as parts/a")
        size = self._size(entry, record, file)
        background, background_seed = self._background(entry, record)
        found: list[tuple[ObjectRecord, int, Corners]] = []
        wrong: list[Problem] = []
        for number, item in enumerate(record.objects, start=1):
            for each in read_records(self.path, f"{entry}: object", [item], ObjectRecord, wrong):
                where = f"{entry}: object number {number}"
                class_id, box = self._class(where, each.name), self._box(where, each.corners, size)
                if class_id is not None and box is not None:
                    found.append((each, class_id, box))
            for problem in wrong:
                self._wrong(f"{entry}: object number {number}", problem.found, problem.remedy)
            wrong.clear()
        most = self.placer.maker.rules.max_objects
        if len(found) > most:
            self._wrong(entry, f"has {len(found)} objects, but the model was trained on at most {most}", "remove some")
        seeds = {number: each.style_seed for number, (each, _, _) in enumerate(found, start=1)}
        seeds = {number: seed for number, seed in {0: background_seed, **seeds}.items() if seed is not None}
        if file.units == "pixels" and record.inside is not None:
            self._wrong(entry, "has inside, but units is pixels", "leave it out: the size of the picture tells it")
        if file.units == "pixels" and size is not None:
            return self._placed(entry, stem, found, size, background, seeds, record.lineage)
        objects = [AskedObject(id_, box, n, seeds.get(n)) for n, (_, id_, box) in enumerate(found, start=1)]
        if self.placer.maker.rules.background:
            objects.insert(0, background_of(background, background_seed))
        return AskedLayout(stem, tuple(objects), self._inside(entry, record), record.lineage)

    def _placed(
        self,
        entry: str,
        stem: str,
        found: Sequence[tuple[ObjectRecord, int, Corners]],
        size: Size,
        background: int,
        seeds: Mapping[int, int],
        lineage: Mapping[str, Any] | None,
    ) -> AskedLayout:
        label = torch.tensor([class_id for _, class_id, _ in found], dtype=torch.int64)
        box = torch.tensor([box for _, _, box in found], dtype=torch.float64).reshape(-1, 4)
        picture = PictureObjects(label, box, size, background)
        layout = self.placer.place(stem, picture, lineage=lineage, style_seeds=seeds)
        left = {each.number for each in layout.objects}
        for number in range(1, len(found) + 1):
            if number not in left and len(found) <= self.placer.maker.rules.max_objects:
                resize, least = self.placer.transform.resize, self.placer.maker.rules.min_object_size
                lost = f"is not in the image: it is smaller than min_object_size ({least:g}), or resize {resize} cuts "
                remedy = "move it, set min_object_size to 0, or give boxes in shares of the image"
                self._wrong(f"{entry}: object number {number}", f"{lost}most of it off", remedy)
        return layout

    def _size(self, entry: str, record: LayoutRecord, file: FileRecord) -> Size | None:
        """Return height and width of what the boxes are counted in; shares have none."""
        size = file.size if record.size is None else record.size
        if file.units == "shares":
            if size is not None:
                self._wrong(entry, "has a size, but units is shares", 'leave size out, or write "units": "pixels"')
            return _SHARES
        if size is None or len(size) != 2 or min(size) < 1:
            found = "has no size, but units is pixels" if size is None else f"size is {size}"
            self._wrong(entry, found, 'write "size": [height, width] of the picture that the pixels are of')
            return None
        return size[0], size[1]

    def _inside(self, entry: str, record: LayoutRecord) -> tuple[int, int, int, int] | None:
        """Return rows and columns of what is no border, as `AskedLayout` has them."""
        if record.inside is None:
            return None
        left, top, right, bottom = record.inside
        box = self._box(f"{entry}: inside", (left, top, right, bottom), _SHARES)
        return None if box is None else inside_of_shares(box, self.placer.transform.image_size)

    def _background(self, entry: str, record: LayoutRecord) -> tuple[int, int | None]:
        """Return class and style seed of the background."""
        if record.background is None:
            return self.background, None
        if not self.placer.maker.rules.background:
            self._wrong(entry, "has a background, but the model was trained without one", "leave it out")
            return self.background, None
        given = record.background
        given = given if isinstance(given, dict) else {"class": given}
        wrong: list[Problem] = []
        found = read_records(self.path, "background", [given], BackgroundRecord, wrong)
        for problem in wrong:
            self._wrong(f"{entry}: background", problem.found, problem.remedy)
        class_id = self._class(f"{entry}: background", found[0].name, background=True) if found else None
        return self.background if class_id is None else class_id, found[0].style_seed if found else None

    def _class(self, entry: str, name: str | int, *, background: bool = False) -> int | None:
        class_id = self.names.index(name) if name in self.names else name
        if isinstance(class_id, int) and 0 <= class_id < len(self.names):
            if class_id != self.background or background:
                return class_id
            found = f"class {self.names[class_id]!r} is that of the background"
            self._wrong(entry, found, 'write it as the "background" of the layout, or name another class')
            return None
        listed = ", ".join(f"{number} {each}" for number, each in enumerate(self.names))
        remedy = suggestion(str(name), self.names, f"the classes are {listed}")
        self._wrong(entry, f"class {name!r} is not known", remedy)
        return None

    def _box(self, entry: str, box: Corners, size: Size | None) -> Corners | None:
        if size is None:  # which is said already
            return box
        shares = size == _SHARES
        wrong = box_mistake(box, size, 0.0) if shares else box_mistake(box, size)
        if wrong is None:
            return clipped_box(box, size)
        found, remedy = wrong
        if shares and max(box) > 2:
            found, remedy = "has shares above 1", 'are they pixels? write "units": "pixels" and "size": [height, width]'
        what = "shares" if shares else f"pixels of {size[1]}x{size[0]}"
        self._wrong(entry, f"box {list(box)} in {what} {found}", remedy)
        return None


def layout_file_schema() -> dict[str, Any]:
    """Return the JSON Schema of layout files, for editors."""
    parts = {}
    for kind in (ObjectRecord, BackgroundRecord, LayoutRecord):
        parts[kind.__name__] = kind.model_json_schema(by_alias=True)
    schema = FileRecord.model_json_schema(by_alias=True)
    lists = ((schema, "layouts", "LayoutRecord"), (parts["LayoutRecord"], "objects", "ObjectRecord"))
    for owner, key, of in lists:
        owner["properties"][key] = {"type": "array", "items": {"$ref": f"#/$defs/{of}"}}
    alone = parts["BackgroundRecord"]["properties"]["class"]["anyOf"]
    background = {"anyOf": [{"$ref": "#/$defs/BackgroundRecord"}, *alone]}
    parts["LayoutRecord"]["properties"]["background"] = background
    for part in (schema, *parts.values()):
        part.pop("title", None)
        part["description"] = part["description"].removesuffix(".")
        for entry in part["properties"].values():
            entry.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "isdm layouts",
        **schema,
        "$defs": parts,
    }
