"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guided_diffusion.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, put in the place of `path` when the block succeeds, removed when it fails.

    Makes the folder. The temporary name's ending is no picture's and no checkpoint's, so that one left by a killed
    process is never taken for a result.

    Raises UserError naming the file for what keeps it from being written, a full disk among them.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # Without this a power cut could leave the new name with contents that were never written.
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns a full disk into a RuntimeError
        raise UserError(
            f"{path}: cannot be written ({_reason(path.parent, error)}); make room or choose another"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Delete what processes killed while writing `path` left beside it."""
    path = Path(path)
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


def digest(path: str | Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _reason(folder: Path, error: Exception) -> str:
    while not folder.exists():
        folder = folder.parent
    if isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < 1 << 20:
        return os.strerror(errno.ENOSPC)
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
