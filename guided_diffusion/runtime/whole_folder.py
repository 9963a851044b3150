"""Folders that are there completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import leftovers, make_folder, move, reporting_os_errors
from guided_diffusion.runtime.lock import LOCK, file_lock


@contextmanager
def new_folder(key: str, target: str | Path, action: str) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its name when the block succeeds, and is removed when it fails.

    One that a killed process has left is removed. Raises ConfigError for `key` where `target` holds files already.
    """
    target = Path(os.path.abspath(target))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with file_lock(target, action):
        refuse_filled(key, target)
        for path in leftovers(target.parent):
            if path.is_dir() and path.name.startswith(f".{target.name}."):
                shutil.rmtree(path, ignore_errors=True)
        try:
            yield make_folder(temporary)
            with reporting_os_errors(target):
                if target.is_dir():  # and empty
                    target.rmdir()
                move(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def emptied_on_failure(folder: str | Path) -> Iterator[None]:
    """Take away what the block wrote into `folder`, which this process has locked, where it fails.

    A folder that had files before the block stays as it is.
    """
    folder = Path(folder)
    filled = bool(_entries(folder))
    try:
        yield
    except Exception:
        for path in () if filled else _entries(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder beside its lock."""
    return [path for path in folder.iterdir() if not path.name.startswith(LOCK)] if folder.is_dir() else []


def refuse_filled(key: str, target: Path) -> None:
    """Raise ConfigError for `key` where `target` is a file, or a folder that holds some."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if os.path.lexists(target):
        what = "holds files" if target.is_dir() else "is a file"
        line = f"{key}: {target} {what}, and nothing is overwritten: choose a new folder, or delete that one"
        raise ConfigError.of_keys((key, line))
