"""The one exception type that stands for a user's mistake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self


class UserError(Exception):
    """Something the user can mend: one line naming the file or key, what was found and what to do.

    The command line prints the message without a traceback and exits with code 2. Several findings
    of one pass are reported together, a line each.
    """

    def __init__(self, message: str | Sequence[str], *, collective: bool = False, already_printed: bool = False):
        """Take one line, or one for each finding.

        collective: every process of the run raises this, so that none has to be ended from outside.
        already_printed: another process prints it.
        """
        self.messages = (message,) if isinstance(message, str) else tuple(message)
        self.collective = collective
        self.already_printed = already_printed
        super().__init__("\n".join(self.messages))


class ConfigError(UserError):
    """A key or value of the configuration that cannot be used."""


class DataError(UserError):
    """A dataset, image or mask that cannot be used; `of` keeps what its line says as fields, else they are empty."""

    path = found = remedy = ""

    @classmethod
    def of(cls, path: str | Path, found: str, remedy: str) -> Self:
        """Return the error that reads `path: found; remedy`."""
        error = cls(f"{path}: {found}; {remedy}")
        error.path, error.found, error.remedy = str(path), found, remedy
        return error


class CheckpointError(UserError):
    """A checkpoint or weights file that cannot be used."""


class Interrupted(Exception):
    """A stop signal arrived, and what was running has been saved; the exit code is 128 + `signal_number`."""

    def __init__(self, signal_number: int, message: str):
        self.signal_number = signal_number
        super().__init__(message)
