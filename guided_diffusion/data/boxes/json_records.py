"""JSON annotation files: read strictly, each record checked by itself, so that a line names the wrong one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from guided_diffusion.data.files import read_bytes
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.strict_json import parse_json

_SHOWN = 40  # characters of a wrong value


class Record(BaseModel):
    """A record of an annotation file; keys that are not named are of no use here and may be anything."""

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    form: ClassVar[str]
    """The remedy for a wrong record."""


_Kind = TypeVar("_Kind", bound=Record)


def file_problem(path: str, found: str, remedy: str) -> Problem:
    """Return what is wrong with an annotation file as a whole."""
    return Problem(path, found, remedy, ProblemKind.ANNOTATION_FILE)


def entry_problem(path: str, entry: str, found: str, remedy: str) -> Problem:
    """Return what is wrong with one entry of an annotation file."""
    return Problem(f"{path}: {entry}", found, remedy, ProblemKind.ANNOTATION)


def read_object(path: str, form: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Return the JSON object of a file, None if it cannot be read, and its mistakes. form: what it should be."""
    try:
        content, mistakes = parse_json(read_bytes(path))
    except DataError as error:
        return None, [Problem.of(error, ProblemKind.ANNOTATION_FILE)]
    problems = [file_problem(path, *mistake) for mistake in mistakes]
    if isinstance(content, dict):
        return content, problems
    if not problems:
        problems.append(file_problem(path, f"a JSON {type(content).__name__} found", f"write {form}"))
    return None, problems


def read_records(path: str, what: str, items: Iterable[Any], kind: type[_Kind], problems: list[Problem]) -> list[_Kind]:
    """Return the valid ones of a list of records, called `what`; a line for each other one is added to `problems`."""
    records = []
    for number, item in enumerate(items, start=1):
        try:
            records.append(kind.model_validate(item))
        except ValidationError as error:
            found = _found(item, error.errors(include_url=False, include_input=False)[0]["loc"])
            problems.append(entry_problem(path, _name(what, item, number), found, kind.form))
    return records


def repeated(path: str, what: str, ids: Sequence[Any], remedy: str) -> list[Problem]:
    """Return a problem for each value that `ids` has more than once."""
    seen: set[Any] = set()
    twice = dict.fromkeys(value for value in ids if value in seen or seen.add(value))
    return [entry_problem(path, f"{what} {value}", "is there twice", remedy) for value in twice]


def path_problem(name: str) -> str:
    """Return what is wrong with the name of a picture relative to the folder of images, "" if nothing is."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts:
        return f"{name!r} leaves the folder of images"
    if parts[0] == "" or re.match("[A-Za-z][A-Za-z0-9+.-]*:", name):
        return f"{name!r} is not relative to the folder of images"
    return ""


def plain_path(name: str) -> str:
    """Return a name with forward slashes, without a leading "./"."""
    return name.replace("\\", "/").removeprefix("./")


def _name(what: str, item: Any, number: int) -> str:
    of_item = item.get("id") if isinstance(item, dict) else None
    return f"{what} {of_item}" if isinstance(of_item, int | str) and of_item != "" else f"{what} number {number}"


def _found(item: Any, place: tuple[int | str, ...]) -> str:
    value, names = item, []
    for part in place:
        if not isinstance(value, dict | list):  # the part is one of several kinds that the value may have
            break
        names.append(str(part) if isinstance(part, str) else f"number {part + 1}")
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if not inside:
            return f"has no {' '.join(names)}"
        value = value[part]
    where = f"{' '.join(names)} is " if names else "is "
    return f"{where}{json.dumps(value, default=str)[:_SHOWN]}"
