"""The exception for what the user of a metric can correct."""

from __future__ import annotations

from pathlib import Path


class EvaluationError(Exception):
    """One line, `key: path: found: remedy`: the option (or metric), its file if it has one, the problem, what to do."""

    def __init__(self, key: str, found: str, remedy: str, *, path: Path | str = ""):
        self.key, self.path, self.found, self.remedy = key, str(path), found, remedy
        super().__init__(": ".join(part for part in (key, self.path, found, remedy) if part))
