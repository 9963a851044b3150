"""What sets the options of a run apart from those that it, or its checkpoint, had before."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guided_diffusion.data.modes import get_mode
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.options import FlatConfig


def differing_keys(ours: FlatConfig, theirs: FlatConfig, keys: Iterable[str]) -> dict[str, str]:
    """Return key -> "key (value here, value there)" for those of `keys`, which both have, that the two set apart."""
    values = {key: (_normalized(key, ours.get(key)), _normalized(key, theirs.get(key))) for key in keys}
    return {
        key: f"{key} ({json.dumps(here)} here, {json.dumps(there)} there)"
        for key, (here, there) in values.items()
        if here != there
    }


def _normalized(key: str, value: Any) -> Any:
    """Bring spellings that mean the same to one form, as JSON has it."""
    if key == "image_size" and value is not None:
        return list(height_width(value))
    if key == "dataset_mode" and value:
        return get_mode(value).name
    return list(value) if isinstance(value, tuple) else value
