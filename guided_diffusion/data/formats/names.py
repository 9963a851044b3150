"""File names that every system takes, each of them once."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST = 120
"""Characters of a name; what is longer ends in a digest."""


def safe_names(paths: Sequence[str]) -> list[str]:
    """Return a name without extension for each path: its last part, with its folders where two are alike.

    Names differ in more than case.
    """
    short = [_safe(path.rpartition("/")[2].rpartition(".")[0] or path.rpartition("/")[2]) for path in paths]
    times: dict[str, int] = {}
    for name in short:
        times[name.lower()] = times.get(name.lower(), 0) + 1
    used: set[str] = set()
    names = []
    for path, name in zip(paths, short, strict=True):
        if times[name.lower()] > 1:
            name = _safe(path.rpartition(".")[0].replace("/", "__"))
        free, number = name, 2
        while free.lower() in used:
            free, number = f"{name}_{number}", number + 1
        used.add(free.lower())
        names.append(free)
    return names


def _safe(name: str) -> str:
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).strip(" .")
    # Half of a character, of file names that are no text, is in no JSON and on no other system.
    name = name.encode("utf-8", "replace").decode("utf-8").replace("?", "_")
    if not name or _DEVICES.fullmatch(name):
        name = f"_{name}"
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name
