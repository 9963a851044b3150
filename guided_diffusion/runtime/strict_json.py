"""JSON from users, read strictly."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guided_diffusion.runtime.errors import ConfigError


def strict_json(text: str, source: str) -> Any:
    """Return the value of the JSON `text`; `source` names it in errors, usually the file.

    Raises ConfigError for what is not JSON, and for an object that gives a key twice.
    """

    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise ConfigError(f"{source}: key {key!r} is given twice: keep one of them")
            values[key] = value
        return values

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{source}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from None
