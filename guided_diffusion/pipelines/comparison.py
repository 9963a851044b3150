"""How the options of a run differ from those that it, or its checkpoint, had before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from guided_diffusion.data.modes import get_mode
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.options import FlatConfig, Problem

_SLIPS, _SHOWN = 3, 8


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


def refuse_other_run(folder: object, problems: Sequence[Problem]) -> None:
    """Raise ConfigError for (key, line) of what differs from the run in `folder`, a part of output_dir.

    Of many there is one line: the folder has another run then, and not this one with a slip.
    """
    if not problems:
        return
    if len(problems) <= _SLIPS:
        raise ConfigError.of_keys(*problems)
    keys = [key for key, _ in problems]
    shown = ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} others" if len(keys) > _SHOWN else "")
    line = f"output_dir: another run is in {folder}, from which {shown} differ: choose another output_dir"
    raise ConfigError.of_keys(("output_dir", line))


def _normalized(key: str, value: Any) -> Any:
    """Return one form, as JSON has it, for spellings that mean the same."""
    if key == "image_size" and value is not None:
        return list(height_width(value))
    if key == "dataset_mode" and value:
        return get_mode(value).name
    return list(value) if isinstance(value, tuple) else value
