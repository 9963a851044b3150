"""A training watched through the files of its run folder, whatever process it is."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from guided_diffusion.runtime.files import is_temporary
from guided_diffusion.runtime.lock import current_holder

METRICS, LOG, PREVIEWS = "metrics.jsonl", "log.txt", "previews"
_ROWS, _LINES = 2000, 400  # at most in one event; of the log as it is at first
_CHUNK = 8 * 2**20  # bytes of a file that are read at a time


class Tail:
    """The lines that are added to a text file."""

    def __init__(self, path: Path):
        self._path, self._offset, self._rest = path, 0, b""
        self._file: tuple[int, int] | None = None

    def new_lines(self) -> tuple[list[str], bool]:
        """Return whole lines that came since the last call, and whether the file began anew before them."""
        anew = False
        try:
            with open(self._path, "rb") as file:
                found = os.fstat(file.fileno())
                known, self._file = self._file, (found.st_dev, found.st_ino)
                # A resumed run puts another file in its place, with what it will not write again.
                if known is not None and (known != self._file or found.st_size < self._offset):
                    self._offset, self._rest, anew = 0, b"", True
                file.seek(self._offset)
                content = file.read(_CHUNK)
        except OSError:
            return [], False
        self._offset += len(content)
        *whole, self._rest = (self._rest + content).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole], anew


class TrainingWatch:
    """What one reader has seen of a run."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._metrics, self._log = Tail(folder / METRICS), Tail(folder / LOG)
        self._state: dict[str, Any] | None = None
        self._previews: list[str] | None = None
        self._first = True

    def look(self) -> list[dict[str, Any]]:
        """Return the events since the last call."""
        events: list[dict[str, Any]] = []
        holder = current_holder(self._folder)
        state = {
            "type": "state",
            "running": bool(holder),
            "what": str(holder.get("action", "")),
            "name": self._folder.name,
        }
        if state != self._state:
            self._state = state
            events.append(state)
        events += self._new_rows()
        lines, _ = self._log.new_lines()
        lines = lines[-_LINES:] if self._first else lines
        if lines:
            events.append({"type": "log", "lines": lines})
        previews = previews_of(self._folder)
        if previews != self._previews:
            self._previews = previews
            events.append({"type": "previews", "names": previews})
        self._first = False
        return events

    def _new_rows(self) -> list[dict[str, Any]]:
        lines, anew = self._metrics.new_lines()
        rows = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                row = json.loads(line, parse_constant=lambda name: None)
                if isinstance(row, dict):
                    rows.append(row)
        events: list[dict[str, Any]] = []
        for start in range(0, len(rows), _ROWS):
            first = start == 0 and (anew or self._first)
            events.append(
                {"type": "metrics", "rows": rows[start : start + _ROWS], **({"reset": True} if first else {})}
            )
        return events


def previews_of(folder: Path) -> list[str]:
    """Return the names of the previews of a run, the newest last."""
    try:
        found = [path for path in (folder / PREVIEWS).glob("*.png") if path.is_file() and not path.is_symlink()]
        found = [path for path in found if not is_temporary(path)]
        return [path.name for path in sorted(found, key=lambda path: (path.stat().st_mtime, path.name))]
    except OSError:
        return []
