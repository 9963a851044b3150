"""How the options of a run differ from those that it, or its checkpoint, had before."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guided_diffusion.data.modes import get_mode
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.options import FlatConfig, Problem


def differences(
    ours: FlatConfig, theirs: FlatConfig, keys: Iterable[str], *, source: object, remedy: str
) -> list[Problem]:
    """Return (key, line) for each of `keys`, which both have, whose values differ. `source` says whose theirs are."""
    values = [(key, _normalized(key, ours.get(key)), _normalized(key, theirs.get(key))) for key in keys]
    return [
        (key, f"{key} differs from {source} ({json.dumps(here)} here, {json.dumps(there)} there): {remedy}")
        for key, here, there in values
        if here != there
    ]


def _normalized(key: str, value: Any) -> Any:
    """Return one form, as JSON has it, for spellings that mean the same."""
    if key == "image_size" and value is not None:
        return list(height_width(value))
    if key == "dataset_mode" and value:
        return get_mode(value).name
    return list(value) if isinstance(value, tuple) else value
