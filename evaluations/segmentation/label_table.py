"""The label table of a segmenter trained elsewhere: which class of the dataset each of its outputs stands for.

A JSON file: an object from the index of an output to a class of the dataset (its name or index), or null where it
stands for none of them; or a list of these in the order of the outputs. Several outputs may stand for one class.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluations.errors import EvaluationError

LabelTable = Mapping[int, str | int | None]

NO_CLASS = -1
_OPTION = "segmenter_labels"


def read_table(path: Path) -> LabelTable:
    """Return output -> name or index of a class, or None.

    Raises EvaluationError, naming `segmenter_labels`, for a file that is missing or no such table.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{_OPTION}: {path}: cannot be read ({_reason(error)}): give a JSON file") from error
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{_OPTION}: {path}: line {error.lineno} is not valid JSON ({error.msg}): correct it"
        ) from error
    except _Twice as error:
        raise EvaluationError(f"{_OPTION}: {path}: has output {error} twice: keep one of them") from error
    entries = dict(enumerate(found)) if isinstance(found, list) else found
    if not isinstance(entries, dict) or not entries:
        raise EvaluationError(
            f"{_OPTION}: {path}: holds no table: write an object such as "
            '{"0": "road", "1": null}, or a list with an entry for each output'
        )
    return {_output(key, path): _entry(key, value, path) for key, value in entries.items()}


class _Twice(Exception):
    """A key that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is no text in UTF-8"


def _output(key: str | int, path: Path) -> int:
    # Only the plain spelling, so that "1" and "01" cannot both be there.
    if isinstance(key, str) and not (key.isdecimal() and str(int(key)) == key):
        raise EvaluationError(f'{_OPTION}: {path}: has the key {key!r}: keys are the indices of outputs, such as "0"')
    return int(key)


def _entry(key: str | int, value: Any, path: Path) -> str | int | None:
    if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
        return value
    raise EvaluationError(
        f"{_OPTION}: {path}: output {key} stands for {json.dumps(value)}: write the name or index of a class, or null"
    )


def classes_of_outputs(table: LabelTable, path: Path, *, outputs: int, class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the class of each of `outputs` outputs, NO_CLASS where one stands for none.

    Raises EvaluationError, naming `segmenter_labels`, where the table says nothing of an output or has one too many,
    where a class is not in the dataset, and where no output stands for any class.
    """
    beyond = [output for output in table if output >= outputs]
    if beyond:
        raise EvaluationError(
            f"{_OPTION}: {path}: has output {min(beyond)}, but the segmenter has the outputs 0 to {outputs - 1}: "
            "give the table of this segmenter"
        )
    lacking = [output for output in range(outputs) if output not in table]
    if lacking:
        raise EvaluationError(
            f"{_OPTION}: {path}: says nothing of output {lacking[0]} (the segmenter has {outputs}): give its class, or "
            "null where it stands for none"
        )
    classes = tuple(_class(output, table[output], path, class_names) for output in range(outputs))
    if set(classes) == {NO_CLASS}:
        raise EvaluationError(f"{_OPTION}: {path}: no output stands for a class: give at least one a class")
    return classes


def _class(output: int, value: str | int | None, path: Path, class_names: Sequence[str]) -> int:
    if value is None:
        return NO_CLASS
    if isinstance(value, str) and value in class_names:
        return class_names.index(value)
    if isinstance(value, int) and 0 <= value < len(class_names):
        return value
    if isinstance(value, int):
        remedy = f"classes are 0 to {len(class_names) - 1}"
    else:
        near = difflib.get_close_matches(value, class_names, n=2) or class_names[:5]
        remedy = f"did you mean one of {', '.join(near)}?"
    raise EvaluationError(
        f"{_OPTION}: {path}: output {output} stands for {value!r}, which is no class of the dataset; {remedy}"
    )
