"""One process at a time writes into an output folder; a second one is refused at once, with pid and host of the first.

The operating system holds the lock and frees it when the process dies, so that nothing has to be cleaned up after a
kill. Where the file system has no locks, a marker file stands for one; a dead process of the same machine loses it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import make_folder, reporting_os_errors, write_text

LOCK = ".lock"
WITHOUT_LOCKS = frozenset(getattr(errno, name) for name in ("ENOSYS", "ENOLCK", "EOPNOTSUPP", "ENOTSUP"))
"""Answers of network and user-space file systems that have no locks."""
PATIENCE = 0.2
"""Seconds of trying again, as the lock may just be being released."""


class InUseError(UserError):
    """Another process writes where this one would; `holder` is its record, empty if unknown."""

    def __init__(self, path: Path, lock: Path, holder: dict[str, Any]):
        who = f"{holder['action']} (process {holder['pid']} on {holder['host']})" if holder else "another process"
        since = f" since {holder['since']}" if holder else ""
        # Whether a process runs can only be seen on its own machine.
        elsewhere = holder.get("host") != socket.gethostname()
        way_out = f"; if it no longer runs, delete {lock}" if elsewhere else ""
        found, remedy = f"{who} is writing here{since}", f"wait for it, or choose another place{way_out}"
        super().__init__(f"{path}: {found}; {remedy}")
        self.path, self.found, self.remedy, self.holder = str(path), found, remedy, holder


@contextmanager
def folder_lock(folder: str | Path, action: str) -> Iterator[None]:
    """Be the only process that writes into `folder` while the block runs; the folder is made.

    Raises InUseError where another process writes, UserError where the folder cannot be written. Folders that were
    made for the lock are removed if they stay empty.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _held(folder, folder / LOCK, action):
            yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def current_holder(folder: str | Path) -> dict[str, Any]:
    """Return the record (action, pid, host, since) of the process that writes into `folder`, empty if none does.

    One on another machine counts as running as long as its record is there.
    """
    found = _read_record(_record_of(Path(folder) / LOCK))
    if not found or (found["host"] == socket.gethostname() and not psutil.pid_exists(int(found["pid"]))):
        return {}
    return found


@contextmanager
def file_lock(path: str | Path, action: str) -> Iterator[None]:
    """Be the only process that writes the file `path`, in a folder that others may write into; as `folder_lock`."""
    path = Path(path)
    with _held(path, path.with_name(f".{path.name}.lock"), action):
        yield


@contextmanager
def _held(path: Path, lock_file: Path, action: str) -> Iterator[None]:
    record = _record_of(lock_file)
    lock = _acquire(path, lock_file)
    try:
        since = datetime.now().isoformat(sep=" ", timespec="seconds")
        mine = {"action": action, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
        write_text(record, json.dumps(mine) + "\n")
        yield
    finally:
        with contextlib.suppress(OSError):
            record.unlink(missing_ok=True)
            # Before it is released: whoever waits for a file that is gone tries again with a new one.
            if sys.platform != "win32":
                lock_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            lock.release()


def _acquire(path: Path, lock_file: Path) -> BaseFileLock:
    system = FileLock(lock_file, fallback_to_soft=False)
    marker = SoftFileLock(lock_file.with_name(lock_file.name + ".marker"))
    for lock in (system, system, marker):
        try:
            make_folder(lock_file.parent)
            lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 10)
            return lock
        except Timeout:
            raise InUseError(path, Path(lock.lock_file), _holder(lock_file)) from None
        except (OSError, NotImplementedError) as error:
            without_locks = isinstance(error, NotImplementedError) or error.errno in WITHOUT_LOCKS
            # The last holder may just have removed the folder.
            if lock is marker or not (without_locks or isinstance(error, FileNotFoundError)):
                with reporting_os_errors(path):
                    raise
    raise AssertionError("a marker needs no locks")


def _record_of(lock_file: Path) -> Path:
    return lock_file.with_name(lock_file.name + ".json")


def _holder(lock_file: Path) -> dict[str, Any]:
    """Return the record of the process that holds the lock, which it may still be writing."""
    deadline = time.monotonic() + 5 * PATIENCE
    while True:
        found = _read_record(_record_of(lock_file))
        # Otherwise a dead process left it, and the holder has not yet written its own.
        if found and (found["host"] != socket.gethostname() or psutil.pid_exists(int(found["pid"]))):
            return found
        if time.monotonic() > deadline:
            return {}
        time.sleep(PATIENCE / 10)


def _read_record(path: Path) -> dict[str, Any]:
    """Return the record of a lock; empty where there is none, or half of one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and {"action", "pid", "host", "since"} <= found.keys() and int(found["pid"]) >= 0:
            return found
    except (OSError, ValueError, TypeError):
        pass
    return {}
