"""The one exception type that stands for a user's mistake."""

from __future__ import annotations

from collections.abc import Sequence


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
    """A dataset, image or mask that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or weights file that cannot be used."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived, and what was running has been saved; the exit code is 128 + `signal_number`."""

    def __init__(self, signal_number: int, message: str):
        self.signal_number = signal_number
        super().__init__(message)
