"""`classes.json`: the names of the classes, and the mask values or colours that stand for them.

    {"0": "background", "1": {"name": "scratch", "values": [128, 255], "color": [255, 0, 0]}, "ignore": {"value": 7}}

A class is a name, or an object with `name`, `value` or `values`, `color` or `colors`. Without values a value is its
class index; if classes have colours and none has values, colours alone say the class.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blobfile as bf

from guided_diffusion.data.files import read_bytes
from guided_diffusion.data.masks.encoding import MAX_CLASSES, Color, LabelEncoding
from guided_diffusion.data.scan.problems import Problem
from guided_diffusion.runtime.errors import DataError

FILE_NAME = "classes.json"
_ENTRY_KEYS = ("name", "value", "values", "color", "colors")


@dataclass(frozen=True)
class ClassesFile:
    """The contents of a valid classes.json; per class its values and its colours, each possibly none."""

    path: str
    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    colors: tuple[tuple[Color, ...], ...]
    ignore_values: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()


def read_classes(data_dir: str | Path) -> tuple[ClassesFile | None, list[Problem]]:
    """Return the classes of `<data_dir>/classes.json`, or None where there is no such file, and its mistakes.

    With any mistake the classes are None; all mistakes of the file are returned.
    """
    path = bf.join(str(data_dir), FILE_NAME)
    if not bf.exists(path):
        return None, []
    report = _Report(path)
    content = _parse(path, report)
    classes = _build(content, report) if content is not None else None
    return (None, report.problems) if report.problems else (classes, [])


def classes_text(encoding: LabelEncoding) -> str:
    """Return the text of a classes.json from which a scan finds the classes of `encoding` again."""
    content: dict[str, Any] = {}
    for index, name in enumerate(encoding.names):
        entry: dict[str, Any] = {"name": name}
        if encoding.values:
            entry["values"] = list(encoding.values[index])
        if encoding.colors:
            entry["colors"] = [list(color) for color in encoding.colors[index]]
        content[str(index)] = entry
    ignore = {"values": list(encoding.ignore_values), "colors": [list(color) for color in encoding.ignore_colors]}
    if any(ignore.values()):
        content["ignore"] = {key: codes for key, codes in ignore.items() if codes}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


class _Report:
    """Collects the mistakes of one classes.json."""

    def __init__(self, path: str):
        self.path = path
        self.problems: list[Problem] = []

    def __call__(self, found: str, remedy: str) -> None:
        self.problems.append(Problem(self.path, found, remedy, FILE_NAME))


def _parse(path: str, report: _Report) -> dict[str, Any] | None:
    """Return the JSON object of the file with its keys checked for repetition, or None if it is none."""

    def unique(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in entries:
            if key in seen:
                report(f"key {key!r} is there twice", "keep one of them")
            seen[key] = value
        return seen

    try:
        content = json.loads(read_bytes(path).decode("utf-8-sig"), object_pairs_hook=unique)
    except DataError as error:
        report.problems.append(Problem.of(error, FILE_NAME))
        return None
    except UnicodeDecodeError:
        report("not UTF-8 text", "save it as UTF-8")
        return None
    except json.JSONDecodeError as error:
        report(f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})", "correct it there")
        return None
    if not isinstance(content, dict):
        example = '{"0": "background", "1": "defect"}'
        report(f"a JSON {type(content).__name__} found", f"write an object of index and name such as {example}")
        return None
    return content


def _build(content: Mapping[str, Any], report: _Report) -> ClassesFile | None:
    """Check every entry and their agreement; what is returned is meaningless if anything was reported."""
    indices: dict[int, Any] = {}
    for key, entry in content.items():
        if key.isascii() and key.isdecimal() and key == str(int(key)):
            indices[int(key)] = entry
        elif key != "ignore":
            report(f"key {key!r} is no class index", "keys are '0', '1', ... and 'ignore', the names are the values")
    if not indices:
        if not report.problems:
            report("no classes found", 'write an entry for each class, such as "0": "background"')
        return None
    if max(indices) > MAX_CLASSES:
        report(f"class {max(indices)} found", f"number at most {MAX_CLASSES} classes 0, 1, 2, ... without gaps")
        return None
    if gaps := sorted(set(range(max(indices) + 1)) - indices.keys()):
        few = ", ".join(map(str, gaps[:8]))
        report(f"classes go up to {max(indices)}, but {few} is missing", "number the classes 0, 1, 2, ... without gaps")
        return None
    entries = [_read_entry(f"class {index}", indices[index], report) for index in sorted(indices)]
    ignore = _read_entry("ignore", content["ignore"], report, named=False) if "ignore" in content else ("", (), ())
    names = tuple(name for name, _, _ in entries)
    for name in sorted({name for name in names if names.count(name) > 1}):
        report(f"two classes are named {name!r}", "give every class a name of its own")
    values, colors = tuple(entry[1] for entry in entries), tuple(entry[2] for entry in entries)
    _check_unique("value", [*values, ignore[1]], report)
    _check_unique("color", [*colors, ignore[2]], report)
    if any(colors) and not any(values) and not all(colors):
        missing = colors.index(())
        report(f"class {missing} has no color though others have", "give every class a color, or values as well")
    return ClassesFile(report.path, names, values, colors, ignore[1], ignore[2])


def _read_entry(
    where: str, entry: Any, report: _Report, *, named: bool = True
) -> tuple[str, tuple[int, ...], tuple[Color, ...]]:
    """Return (name, values, colours) of one entry."""
    if isinstance(entry, str) and named:
        entry = {"name": entry}
    if not isinstance(entry, dict):
        form = 'a name, or an object such as {"name": "scratch", "value": 255}' if named else '{"value": 255}'
        report(f"{where} is {json.dumps(entry)[:60]}", f"write {form}")
        return "", (), ()
    for key in entry:
        if key not in _ENTRY_KEYS or (key == "name" and not named):
            nearest = difflib.get_close_matches(key, _ENTRY_KEYS, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(_ENTRY_KEYS)}"
            report(f"{where} has the unknown key {key!r}", hint)
    name = entry.get("name", "")
    if named and (not isinstance(name, str) or not name.strip()):
        report(f"{where} has no name", 'give it one: "name": "scratch"')
        name = where
    values = _read_codes(where, entry, "value", _as_value, "an integer in 0..65535", report)
    colors = _read_codes(where, entry, "color", _as_color, "three integers in 0..255", report)
    return str(name), values, colors


def _read_codes(
    where: str, entry: Mapping[str, Any], key: str, read: Callable[[Any], Any], form: str, report: _Report
) -> tuple[Any, ...]:
    """Return what `key` (one item) and its plural (a list of items) hold."""
    items = [entry[key]] if key in entry else []
    plural = entry.get(key + "s", [])
    if not isinstance(plural, list) or read(plural) is not None:
        report(f"{where} has {key}s {json.dumps(plural)[:60]}", f"write a list of them, or {key!r} for a single one")
        plural = []
    found = []
    for item in [*items, *plural]:
        if (code := read(item)) is None:
            report(f"{where} has the {key} {json.dumps(item)[:60]}", f"a {key} is {form}")
        else:
            found.append(code)
    return tuple(found)


def _as_value(item: Any) -> int | None:
    return item if type(item) is int and 0 <= item <= 65535 else None


def _as_color(item: Any) -> Color | None:
    if not isinstance(item, list) or len(item) != 3:
        return None
    red, green, blue = item
    return (red, green, blue) if all(type(part) is int and 0 <= part <= 255 for part in item) else None


def _check_unique(key: str, groups: Sequence[Sequence[Any]], report: _Report) -> None:
    """Report every value or colour that more than one entry has, the last group being `ignore`."""
    owner: dict[Any, int] = {}
    for index, group in enumerate(groups):
        for code in group:
            if code in owner:
                name = "ignore" if index == len(groups) - 1 else f"class {index}"
                shown = list(code) if isinstance(code, tuple) else code
                report(f"{key} {shown} stands for class {owner[code]} and for {name}", "keep one of the two")
            owner[code] = index
