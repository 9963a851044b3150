"""One process at a time in a folder: living ones are respected, dead ones are not."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from guided_diffusion.runtime import lock
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import atomic_write, remove_leftovers
from guided_diffusion.runtime.lock import LOCK, InUseError, file_lock, folder_lock

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from guided_diffusion.runtime import lock
if sys.argv[2] == "soft":
    import errno
    class NoLocks(lock.FileLock):
        def acquire(self, *given, **more):
            raise OSError(errno.ENOLCK, "No locks available")
    lock.FileLock = NoLocks
with lock.folder_lock(sys.argv[1], "train"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["system", "soft"])
def kind(request, monkeypatch):
    """Locks of the system, or those of a file system that has none."""
    if request.param == "soft":

        class NoLocks(filelock.FileLock):
            def acquire(self, *given, **more):
                raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(lock, "FileLock", NoLocks)
    return request.param


@pytest.fixture
def other(tmp_path, kind):
    """Another process that has the lock of tmp_path/out."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out"), kind]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_at_once_with_the_first_ones_pid_and_host(other, tmp_path):
    started = time.monotonic()
    with pytest.raises(InUseError) as error, folder_lock(tmp_path / "out", "sample"):
        pytest.fail("both have it")
    assert time.monotonic() - started < 5
    assert error.value.holder["pid"] == other.pid
    assert error.value.holder["host"] == socket.gethostname()
    assert error.value.holder["action"] == "train"
    (line,) = error.value.messages
    assert str(other.pid) in line
    assert socket.gethostname() in line
    assert "\n" not in line


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert any(name.startswith(LOCK) for name in left)
    with folder_lock(tmp_path / "out", "sample"):
        assert json.loads((tmp_path / "out" / f"{LOCK}.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_lock_leaves_nothing(kind, tmp_path):
    with folder_lock(tmp_path / "a" / "b", "train"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir()), "empty folders that were made for it are left"
    (tmp_path / "used").mkdir()
    with folder_lock(tmp_path / "used", "train"), folder_lock(tmp_path / "used" / "below", "train"):
        (tmp_path / "used" / "below" / "result").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "below", "result"]


def test_an_error_frees_the_lock(kind, tmp_path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path, "train"):
        raise ZeroDivisionError
    with folder_lock(tmp_path, "train"):
        pass


def test_a_file_is_locked_apart_from_its_folder(kind, tmp_path):
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    with folder_lock(tmp_path, "train"), file_lock(a, "export"), file_lock(b, "export"), pytest.raises(InUseError):
        file_lock(a, "export").__enter__()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error, folder_lock(tmp_path / "file", "train"):
        pass
    assert str(tmp_path / "file") in str(error.value)


def test_temporaries_of_living_processes_are_never_deleted(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()  # nobody has its number now
    living = [tmp_path / f".last.pt.{pid}.tmp" for pid in (os.getpid(), os.getppid())]
    dead = tmp_path / f".last.pt.{process.pid}.tmp"
    others = [tmp_path / name for name in (".hidden", "last.pt", ".x.tmp", f"last.pt.{process.pid}.tmp")]
    for path in (*living, dead, *others):
        path.touch()
    remove_leftovers(tmp_path)
    assert not dead.exists()
    assert all(path.exists() for path in (*living, *others))
    with atomic_write(tmp_path / "new.pt") as temporary:
        temporary.touch()
        remove_leftovers(tmp_path)
        assert temporary.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX only")
def test_a_child_that_outlives_a_killed_process_does_not_keep_its_lock(tmp_path):
    """The workers of a loader live on for seconds."""
    program = HOLDER.replace("time.sleep(600)", "import os\n    os.fork() or time.sleep(5)\n    time.sleep(600)")
    command = [sys.executable, "-c", program, str(tmp_path / "out"), "system"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    time.sleep(0.5)
    process.kill()
    process.wait()
    with folder_lock(tmp_path / "out", "sample"):
        pass
