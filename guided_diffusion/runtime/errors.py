"""The one exception type that stands for a user's mistake."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

MAX_LINE = 2000  # characters of a message; what is longer loses its middle
_NO_MEMORY = (
    "can't allocate memory", "Cannot allocate memory", "not enough memory", "can't start new thread", "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
"""What Linux, Windows, PyTorch and its libraries say."""
_NO_SHARED_MEMORY = (
    "unable to allocate shared memory",
    "workers are out of shared memory",
    "insufficient shared memory",
)
"""What PyTorch says of data loading processes; a GPU has shared memory, too, of which Triton speaks."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def one_line(text: str) -> str:
    """Return `text` as one line that a terminal can show: control characters escaped, an overlong middle left out."""
    text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE // 2]} ... {text[-MAX_LINE // 4 :]}"


def lacks_memory(error: BaseException) -> bool:
    """Return whether the system or the GPU had no memory left, or no thread: what is missing then is the same."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def unfit_gpu(error: BaseException) -> str:
    """Return what to do about a GPU that this PyTorch has no code for, "" for other errors."""
    if "no kernel image is available" not in str(error):
        return ""
    found = "this PyTorch has no code for the GPU, which is too old or too new for it (`doctor` shows both)"
    return f"device: {found}; install another one as pytorch.org says, or set device to cpu"


def lost_workers(error: BaseException) -> str:
    """Return what ended the data loading processes of PyTorch and what to do, "" for other errors."""
    text = str(error)
    if any(sign in text for sign in _NO_SHARED_MEMORY):
        remedy = "give the container more (docker run --shm-size=4g), or set num_workers to 0"
        return f"num_workers: data loading processes had no shared memory left (/dev/shm); {remedy}"
    if text.startswith("DataLoader worker"):
        found = text.partition("\n")[0].rstrip(". ")
        return f"num_workers: {found}, as the system does where memory is short; set it lower, or to 0"
    return ""


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
        self.messages = tuple(one_line(line) for line in ((message,) if isinstance(message, str) else message))
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
    """A key or value of the configuration that cannot be used; `of_keys` keeps the key of each line."""

    keys: tuple[str, ...] = ()

    @classmethod
    def of_keys(cls, *problems: tuple[str, str]) -> Self:
        """Return the error of (key, line that says what is wrong and what to do) pairs."""
        error = cls([line for _, line in problems])
        error.keys = tuple(key for key, _ in problems)
        return error


class DataError(UserError):
    """A dataset, image or mask that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or weights file that cannot be used."""


class Interrupted(Exception):
    """A stop signal arrived and the work was saved; the exit code is 128 + `signal_number`."""

    def __init__(self, signal_number: int, message: str):
        self.signal_number = signal_number
        super().__init__(message)
