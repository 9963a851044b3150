"""`classes.json`: the names of the classes, and the mask values or colors that stand for them.

    {"0": "background", "1": {"name": "scratch", "values": [128, 255], "color": [255, 0, 0]}, "ignore": {"value": 7}}

A class is a name, or an object with `name`, `value` or `values`, `color` or `colors`. Without values, a class's value
is its index; if classes have colors and none has values, colors alone tell the class.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import blobfile as bf
from annotated_types import Predicate
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from guided_diffusion.data.files import exists, read_bytes
from guided_diffusion.data.masks.advice import describe_values
from guided_diffusion.data.masks.encoding import MAX_CLASSES, Color, LabelEncoding
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.near_names import suggestion
from guided_diffusion.runtime.strict_json import Mistake, parse_json

FILE_NAME = "classes.json"


@dataclass(frozen=True)
class ClassesFile:
    """The contents of a valid classes.json; a class may have no values or no colors."""

    path: str
    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    colors: tuple[tuple[Color, ...], ...]
    ignore_values: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()


def read_classes(data_dir: str | Path) -> tuple[ClassesFile | None, list[Problem]]:
    """Return the classes of `<data_dir>/classes.json`, None if there is no such file or it has mistakes; and these."""
    path = bf.join(str(data_dir), FILE_NAME)
    try:
        if not exists(path):
            if not os.path.islink(path):
                return None, []
            raise DataError.of(path, "is a link to a file that is not there", "copy the file, or remove the link")
        content, mistakes = parse_json(read_bytes(path))
    except DataError as error:
        return None, [Problem.of(error, ProblemKind.CLASSES_FILE)]
    classes = None
    if isinstance(content, dict):
        classes = _build(path, content, mistakes)
    elif content is not None or not mistakes:
        remedy = 'write an object of index and name such as {"0": "background", "1": "defect"}'
        mistakes.append((f"a JSON {type(content).__name__} found", remedy))
    return None if mistakes else classes, [Problem(path, *mistake, ProblemKind.CLASSES_FILE) for mistake in mistakes]


def classes_text(encoding: LabelEncoding) -> str:
    """Return the text of a classes.json with the classes of `encoding`."""
    codes = {"values": encoding.values, "colors": encoding.colors}
    content: dict[str, Any] = {
        str(index): {"name": name, **{key: by_class[index] for key, by_class in codes.items() if by_class}}
        for index, name in enumerate(encoding.names)
    }
    ignore = {"values": encoding.ignore_values, "colors": encoding.ignore_colors}
    if any(ignore.values()):
        content["ignore"] = {key: ignored for key, ignored in ignore.items() if ignored}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


_Value = Annotated[int, Field(ge=0, le=65535)]
_Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3), AfterValidator(tuple)]


def _has_text(name: str) -> bool:
    return bool(name.strip()) and name.isprintable()


MAX_NAME = 100
_ONE = BeforeValidator(lambda code: [code])
_FORMS = {
    "name": f'give it text of at most {MAX_NAME} printable characters, such as "name": "scratch"',
    "value": "a value is an integer in 0..65535",
    "values": "write a list of integers in 0..65535, or 'value' for a single one",
    "color": "a color is three integers in 0..255",
    "colors": "write a list of colors (three integers in 0..255 each), or 'color' for a single one",
}


class _Ignore(BaseModel):
    """The entry `ignore`: values and colors of ignored pixels."""

    model_config = ConfigDict(strict=True, extra="forbid")
    form: ClassVar = '{"value": 255}'

    value: Annotated[list[_Value], _ONE] = []
    values: list[_Value] = []
    color: Annotated[list[_Color], _ONE] = []
    colors: list[_Color] = []

    def codes(self, kind: str) -> tuple[Any, ...]:
        """Return all values (kind "value") or colors (kind "color")."""
        return (*getattr(self, kind), *getattr(self, kind + "s"))


class _Class(_Ignore):
    form: ClassVar = 'a name, or an object such as {"name": "scratch", "value": 255}'

    name: Annotated[str, Predicate(_has_text), Field(max_length=MAX_NAME)] = Field("", validate_default=True)


_Entry = TypeVar("_Entry", bound=_Ignore)


def _build(path: str, content: dict[str, Any], mistakes: list[Mistake]) -> ClassesFile | None:
    """Return the classes of a JSON object, adding its `mistakes`; with any, the result is not to be used."""
    keys = {key: re.fullmatch("0|[1-9][0-9]{0,17}", key) for key in content if key != "ignore"}
    remedy = "keys are '0', '1', ... and 'ignore', the names are the values"
    mistakes += [(f"key {key!r} is not a class index", remedy) for key, is_index in keys.items() if not is_index]
    indices = sorted(int(key) for key, is_index in keys.items() if is_index)
    if not indices or indices[-1] >= min(len(indices), MAX_CLASSES):
        if indices or not mistakes:
            found = f"classes {describe_values(indices)} found" if indices else "no classes found"
            mistakes.append((found, f"number the classes 0, 1, 2, ... without gaps, at most {MAX_CLASSES}"))
        return None
    classes = [_read_entry(f"class {index}", content[str(index)], _Class, mistakes) for index in indices]
    ignore = _read_entry("ignore", content.get("ignore", {}), _Ignore, mistakes)
    names = tuple(entry.name for entry in classes)
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    mistakes += [(f"two classes are named {name!r}", "give every class a name of its own") for name in twice]
    values, colors = (tuple(entry.codes(kind) for entry in classes) for kind in ("value", "color"))
    mistakes += _ambiguous("value", [*values, ignore.codes("value")])
    mistakes += _ambiguous("color", [*colors, ignore.codes("color")])
    if any(colors) and not any(values) and not all(colors):
        found = f"class {colors.index(())} has no color though others have"
        mistakes.append((found, "give every class a color, or values as well"))
    return ClassesFile(path, names, values, colors, ignore.codes("value"), ignore.codes("color"))


def _read_entry(where: str, entry: Any, model: type[_Entry], mistakes: list[Mistake]) -> _Entry:
    """Return an entry without its wrong keys, which are added to `mistakes`: the other keys are still checked."""
    if isinstance(entry, str) and model is _Class:
        entry = {"name": entry}
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        places = [detail["loc"] for detail in error.errors(include_url=False)]
    # A color with several wrong channels is one mistake.
    mistakes += dict.fromkeys(_mistake(where, entry, model, place) for place in places)
    wrong = {place[0] for place in places if place}
    valid = entry.keys() & model.model_fields.keys() - wrong if isinstance(entry, dict) else ()
    stand_in = {"name": where} if model is _Class else {}
    return model.model_validate(stand_in | {key: entry[key] for key in valid})


def _mistake(where: str, entry: Any, model: type[_Ignore], place: tuple[int | str, ...]) -> Mistake:
    """Return the mistake at `place`, which pydantic refuses."""
    if not place:
        return f"{where} is {json.dumps(entry)[:60]}", f"write {model.form}"
    key = str(place[0])
    if key not in model.model_fields:
        hint = suggestion(key, model.model_fields, f"known are {', '.join(model.model_fields)}")
        return f"{where} has the unknown key {key!r}", hint
    found = entry.get(key, "")
    if key in ("values", "colors") and len(place) > 1:
        found = found[int(place[1])]
    return f"{where} has the {key} {json.dumps(found)[:60]}", _FORMS[key]


def _ambiguous(kind: str, groups: Sequence[Sequence[Any]]) -> Iterator[Mistake]:
    """Yield every value or color that more than one group has; the last group is `ignore`."""
    owners: dict[Any, str] = {}
    for index, group in enumerate(groups):
        where = f"class {index}" if index < len(groups) - 1 else "ignore"
        for code in group:
            if code in owners:
                shown = list(code) if isinstance(code, tuple) else code
                yield f"{kind} {shown} stands for {owners[code]} and for {where}", "keep one of the two"
            owners[code] = where
