"""The one exception type that stands for a user's mistake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self


class UserError(Exception):
    """A mistake that the user can correct: a line naming the file or key, what was found, and what to do.

    The command line prints it without a traceback and exits with code 2; findings of one pass are reported together.
    """

    path = found = remedy = ""  # of an error made by `of`

    def __init__(self, message: str | Sequence[str], *, collective: bool = False, already_printed: bool = False):
        """Take one line, or one for each finding.

        collective: every process of the run raises this error, so the caller need not end the others.
        already_printed: another process prints it.
        """
        self.messages = (message,) if isinstance(message, str) else tuple(message)
        self.collective = collective
        self.already_printed = already_printed
        super().__init__("\n".join(self.messages))

    @classmethod
    def of(cls, path: str | Path, found: str, remedy: str) -> Self:
        """Return the error with the line `path: found; remedy`, and these three as fields; `path` may be a key."""
        error = cls(f"{path}: {found}; {remedy}")
        error.path, error.found, error.remedy = str(path), found, remedy
        return error


class ConfigError(UserError):
    """A key or value of the configuration that cannot be used."""


class DataError(UserError):
    """A dataset, image or mask that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or weights file that cannot be used."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived and the work was saved; the exit code is 128 + `signal_number`."""

    def __init__(self, signal_number: int, message: str):
        self.signal_number = signal_number
        super().__init__(message)
