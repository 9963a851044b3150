"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

import psutil

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
        move(temporary, path)
    except OSError as error:
        if error.errno is None:  # raised by the block about its input, not by the system
            raise
        raise _unwritable(path, error) from error
    except RuntimeError as error:
        # PyTorch's zip writer turns a full disk into a RuntimeError.
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        reason = error.__context__ if isinstance(error.__context__, OSError) else OSError(0, os.strerror(errno.ENOSPC))
        raise _unwritable(path, reason) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


PATIENCE = 10.0
"""Seconds for which what another program has open is tried again: a virus scanner, an index, the studio."""
_IN_USE = (5, 32, 33, 1224)
"""Errors of Windows, which neither renames nor deletes such files: denied, in use, locked, mapped."""


def _patiently(change: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            change()
            return
        except PermissionError as error:
            if not _is_in_use(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _is_in_use(error: OSError) -> bool:
    return getattr(error, "winerror", None) in _IN_USE


def move(source: str | Path, target: str | Path) -> None:
    """Give a file the name `target`, whose file it replaces, or a folder a new name; see `PATIENCE`."""
    _patiently(lambda: os.replace(source, target))


def remove(path: str | Path) -> None:
    """Delete a file, if it is there; see `PATIENCE`."""
    _patiently(lambda: Path(path).unlink(missing_ok=True))


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
        raise _unwritable(path, error) from error


def make_folder(path: str | Path) -> Path:
    """Make a folder for results and return it; UserError naming it if that fails."""
    with reporting_os_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def _unwritable(path: str | Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
    # What lies in the way of a folder may also be above it.
    file = next((above for above in (Path(path), *Path(path).parents) if os.path.lexists(above)), Path(path))
    in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR) and not file.is_dir()
    reason = f"{file} is no folder" if in_the_way else error.strerror or str(error)
    remedy = "make room there, or choose another place" if full else "choose another place"
    remedy = "raise the limit of open files (ulimit -n)" if error.errno == errno.EMFILE else remedy
    remedy = f"close the program that has it open, or {remedy}" if _is_in_use(error) else remedy
    return UserError.of(path, f"cannot be written ({reason})", remedy)


def is_endless(path: str | Path) -> bool:
    """Return whether `path` is a named pipe or a device, which would be read for ever; a shell's `<(...)` is not."""
    try:
        mode = os.stat(path).st_mode
        unnamed = stat.S_ISFIFO(mode) and not os.path.lexists(os.path.realpath(path))
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or unnamed)


_TEMPORARY = re.compile(r"\..+\.(\d+)\.(?:tmp|partial)", re.DOTALL)
"""Names of temporary files: that of the target and the pid of the writer."""


def leftovers(folder: str | Path) -> list[Path]:
    """Return the temporary files and folders in `folder` whose processes have ended."""
    names = ((path, _TEMPORARY.fullmatch(path.name)) for path in Path(folder).glob(".*"))
    return sorted(path for path, name in names if name and not _runs(name[1]))


def is_temporary(path: Path) -> bool:
    """Return whether a file has the name of a temporary one."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _runs(pid: str) -> bool:
    return len(pid) < 10 and psutil.pid_exists(int(pid))


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary files of killed processes in `folder`; those of running processes stay."""
    for path in leftovers(folder):
        if path.is_file():
            path.unlink(missing_ok=True)


def stays_inside(path: str) -> bool:
    """Return whether a relative path with forward slashes leads to a file below its folder, also on Windows."""
    parts = PureWindowsPath(path)
    return bool(parts.parts) and not parts.anchor and ".." not in parts.parts and "\\" not in path


def digest(path: str | Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
