"""The label table of an external segmenter: the class of the dataset that each of its outputs stands for.

A JSON file: an object from the index of an output to a class of the dataset (its name or index), or null for none of
them; or a list of these in the order of the outputs. Several outputs may stand for one class.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluations.errors import EvaluationError

LabelTable = Mapping[int, str | int | None]

NO_CLASS = -1
BACKGROUND_TOO = "give a model with an output for the background, too"


def read_table(path: Path) -> LabelTable:
    """Return the name or index of a class, or None, for each output; EvaluationError if the file has no such table."""

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise _error(path, f"has output {key} twice", "keep one of them")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=without_repeats)
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror})", "give a JSON file") from error
    except UnicodeDecodeError as error:
        raise _error(path, "is not text in UTF-8", "give a JSON file") from error
    except RecursionError:
        raise _error(path, "is nested too deep", "write one entry for each output") from None
    except json.JSONDecodeError as error:
        raise _error(path, f"line {error.lineno} is not valid JSON ({error.msg})", "correct it") from error
    entries = dict(enumerate(content)) if isinstance(content, list) else content
    if not isinstance(entries, dict) or not entries:
        example = 'write an object such as {"0": "road", "1": null}, or a list with an entry for each output'
        raise _error(path, "has no table", example)
    for key, value in entries.items():
        # Only the plain spelling, so that "1" and "01" cannot both be there.
        if isinstance(key, str) and not re.fullmatch("0|[1-9][0-9]{0,8}", key):
            raise _error(path, f"has the key {key[:60]!r}", 'write the index of an output, such as "0"')
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            remedy = "write the name or index of a class, or null"
            raise _error(path, f"output {key} stands for {json.dumps(value)[:60]}", remedy)
    return {int(key): value for key, value in entries.items()}


def classes_of_outputs(table: LabelTable, path: Path, *, outputs: int, class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the class of each of `outputs` outputs, or NO_CLASS.

    Raises EvaluationError for an output that is missing or too many, for a class that the dataset does not have, if no
    output stands for any class, and if all stand for one, which would be predicted everywhere.
    """
    beyond = [output for output in table if output >= outputs]
    if beyond:
        found = f"has output {min(beyond)}, but the segmenter has the outputs 0 to {outputs - 1}"
        raise _error(path, found, "give the table of this segmenter")
    missing = [output for output in range(outputs) if output not in table]
    if missing:
        found = f"output {missing[0]} is missing (the segmenter has {outputs})"
        raise _error(path, found, "give its class, or null for none")
    classes = tuple(_class(output, table[output], path, class_names) for output in range(outputs))
    if set(classes) == {NO_CLASS}:
        raise _error(path, "no output stands for a class", "give at least one a class")
    if len(set(classes)) == 1:
        found = f"all outputs ({outputs}) stand for {class_names[classes[0]]!r}, which would be predicted everywhere"
        raise _error(path, found, BACKGROUND_TOO)
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
    raise _error(path, f"output {output} stands for {value!r}, which is not a class of the dataset", remedy)


def _error(path: Path, found: str, remedy: str) -> EvaluationError:
    return EvaluationError("segmenter_labels", found, remedy, path=path)
