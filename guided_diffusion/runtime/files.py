"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guided_diffusion.runtime.errors import UserError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block succeeds and is removed when it fails.

    Makes the folder. The temporary name ends in `.tmp`, so that one left by a killed process is never taken for a
    result. Raises UserError naming the file if it cannot be written, as on a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # Otherwise a power cut could leave the new name with contents that were never written.
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # raised by the block about its input, not by the system
            raise
        raise _unwritable(path, error.strerror) from error
    except RuntimeError as error:
        # PyTorch's zip writer turns a full disk into a RuntimeError.
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise _unwritable(path, os.strerror(errno.ENOSPC)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace a text file atomically: UTF-8 with LF line ends, lone surrogates (of file names) escaped."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


@contextmanager
def reporting_os_errors(path: str | Path) -> Iterator[None]:
    """Turn an OSError of a block that writes to `path` into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def make_folder(path: str | Path) -> Path:
    """Make a folder for results and return it; UserError naming it if that fails."""
    with reporting_os_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def _unwritable(path: str | Path, reason: str) -> UserError:
    return UserError.of(path, f"cannot be written ({reason})", "make room there, or choose another place")


def remove_leftovers(path: str | Path) -> None:
    """Delete the temporary files of processes that were killed while writing `path`."""
    path = Path(path)
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


def digest(path: str | Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
