"""JSON from users, read strictly."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from guided_diffusion.runtime.errors import ConfigError

Mistake = tuple[str, str]  # what was found, and what to do

_COMMA = "correct it there; JSON has no comma before a closing bracket, and no comments"
_REMEDIES = {
    "Invalid \\": "a backslash in JSON starts an escape: write / or two backslashes in Windows paths",
    "Expecting property name": _COMMA,
    "Expecting value": _COMMA,
}

MAX_DEPTH = 100  # far below the limit of Python's stack, so that every value can be printed, too
MAX_DIGITS = 300  # so that every integer can be compared with a float


def strict_json(content: str | bytes, source: str) -> Any:
    """Return the value of a JSON text; ConfigError with a line for each mistake, which names `source`, a file."""
    value, mistakes = parse_json(content)
    if mistakes:
        raise ConfigError([f"{source}: {found}: {remedy}" for found, remedy in mistakes])
    return value


def parse_json(content: str | bytes) -> tuple[Any, list[Mistake]]:
    """Return the value of a JSON text (bytes: UTF-8) and its mistakes; of a key given twice the last value counts.

    If the text cannot be read, the value is None and the last mistake says why.
    """
    mistakes: list[Mistake] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        mistakes.extend((f"key {key!r} is given twice", "keep one of them") for key in twice)
        return dict(pairs)

    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=unique, parse_int=_integer)
        if _depth(value) > MAX_DEPTH:
            raise RecursionError
        return value, mistakes
    except UnicodeDecodeError:
        unreadable = "not UTF-8 text", "save it as UTF-8"
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        remedy = next((text for begins, text in _REMEDIES.items() if error.msg.startswith(begins)), "correct it there")
        unreadable = f"not valid JSON at {place} ({error.msg})", remedy
    except RecursionError:
        unreadable = f"nested more than {MAX_DEPTH} levels deep", "remove the needless brackets"
    except OverflowError as error:
        unreadable = str(error), "correct the number"
    return None, [*mistakes, unreadable]


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise OverflowError(f"the integer {text[:12]}... has {len(text)} digits")
    return int(text)


def _depth(value: Any) -> int:
    """Return the depth of nested objects and lists, without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth
