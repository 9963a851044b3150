"""Batches of samples: each is a `main.py sample` in a process of its own, which the studio starts, stops and resumes.

What there is of them lies in `jobs/` of results_path: `batch_0001.json`, the configuration, and `batch_0001/`, what
`sample` writes. So they are still there after the studio was closed, which stops them, or killed, which does not.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from guided_diffusion.runtime.files import make_folder, write_text
from guided_diffusion.runtime.lock import current_holder
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.studio.guard import Refused

FOLDER = "jobs"
_NAME = re.compile(r"batch_[0-9]{4,6}")
_PROGRAM = "import sys; from guided_diffusion.cli import main; sys.exit(main(sys.argv[1:]))"
_MANIFEST, _PARTS, _UNFINISHED = "manifest.jsonl", ".manifest-*.jsonl", ".synthetic"
_SHOWN = 2000  # characters of what a job printed last


@dataclass(eq=False)
class Job:
    """One batch: its process, if this studio has started it."""

    name: str
    folder: Path
    config: Path
    total: int
    process: subprocess.Popen[bytes] | None = None
    stopping: bool = False

    @property
    def own(self) -> bool:
        """Whether the process that this studio has started has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def running(self) -> bool:
        """Whether a process writes it, of this studio or of any other parent."""
        return self.own or self._left() is not None

    def _left(self) -> psutil.Process | None:
        """Return the process that a killed studio, or the command line, has started and that still writes."""
        holder = current_holder(self.folder)
        if holder.get("host") != socket.gethostname():
            return None
        try:
            process = psutil.Process(int(holder["pid"]))
            # Another program may have the number by now.
            return process if any(Path(word).name == self.config.name for word in process.cmdline()) else None
        except psutil.Error:
            return None

    @property
    def done(self) -> int:
        """How many pairs are finished."""
        files = [self.folder / _MANIFEST, *self.folder.glob(_PARTS)]
        return sum(_lines_of(file) for file in files)

    def state(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        done, line = self.done, ""
        if self.running:
            state = "stopping" if self.stopping else "running"
        elif done >= self.total and not (self.folder / _UNFINISHED).exists():
            state = "done"
        elif self.process is not None and not self.stopping and self.process.returncode not in (0, None):
            state, line = "failed", self._last_line()
        else:
            state = "stopped"
        return {
            "id": self.name,
            "state": state,
            "done": min(done, self.total),
            "total": self.total,
            "line": line,
            "folder": str(self.folder.absolute()),
        }

    @property
    def output(self) -> Path:
        """The file of what it prints."""
        return self.config.with_suffix(".log")

    def _last_line(self) -> str:
        try:
            lines = self.output.read_text(encoding="utf-8", errors="replace")[-_SHOWN:].splitlines()
        except OSError:
            return ""
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or [""])[-1][:500]

    def start(self) -> None:
        """Start its process, or go on where it stopped."""
        arguments = [sys.executable, "-c", _PROGRAM, "sample", "-c", str(self.config)]
        self.stopping = False
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # in which it is read, also where Windows has another
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, **detached()
            )

    def stop(self) -> None:
        """Ask it to stop; what is finished stays."""
        process = self.process if self.own else self._left()
        if process is not None:
            self.stopping = True
            with suppress(psutil.NoSuchProcess):
                ask_to_stop(process)


def detached(platform: str = os.name) -> dict[str, Any]:
    """Return how a process is started that Ctrl-C in this terminal does not reach, and that can still be stopped."""
    if platform == "nt":
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)}
    return {"start_new_session": True}


def ask_to_stop(process: Any, platform: str = os.name) -> None:
    """Send what ends a run in order: SIGINT, on Windows Ctrl-Break, the only one that reaches a group."""
    if platform != "nt":
        process.send_signal(signal.SIGINT)
        return
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", 1))
    except (OSError, psutil.AccessDenied):  # it has another console than this process, or none
        process.terminate()


class Jobs:
    """The batches below a results_path."""

    def __init__(self, root: Path, config_of: Callable[[Path, dict[str, Any]], dict[str, Any]]):
        """config_of: (folder, what the page asks for) -> the checked configuration of `sample`, in JSON types."""
        self._root, self._config_of = root / FOLDER, config_of
        self._lock = threading.Lock()
        self._jobs = {job.name: job for job in self._found()}

    def _found(self) -> list[Job]:
        """Return the batches that are there already."""
        jobs = []
        for path in sorted(self._root.glob("batch_*.json")):
            total = read_run_record(self._root, path.name).get("num_samples")
            if _NAME.fullmatch(path.stem) and isinstance(total, int) and not isinstance(total, bool):
                jobs.append(Job(path.stem, self._root / path.stem, path, total))
        return jobs

    def begin(self, asked: dict[str, Any]) -> str:
        """Write the configuration of a batch, start it, and return its name; Refused while another one runs."""
        with self._lock:
            self._refuse_second()
            number = 1 + max((int(name.partition("_")[2]) for name in self._jobs), default=0)
            name = f"batch_{number:04d}"
            config = self._config_of(self._root / name, asked)
            make_folder(self._root)
            path = self._root / f"{name}.json"
            write_text(path, json.dumps(config, indent=2) + "\n")
            job = Job(name, self._root / name, path, asked["num_samples"])
            job.start()
            self._jobs[name] = job
            return name

    def _refuse_second(self) -> None:
        running = next((job.name for job in self._jobs.values() if job.running), None)
        if running is not None:
            raise Refused(409, f"{running} is running: wait for it, or stop it")

    def stop(self, name: str) -> None:
        """Ask a batch to stop; Refused where there is none of that name."""
        self._job(name).stop()

    def resume(self, name: str) -> None:
        """Go on with a batch that stopped; Refused while one runs."""
        job = self._job(name)
        with self._lock:
            self._refuse_second()
            job.start()

    def _job(self, name: str) -> Job:
        job = self._jobs.get(name)
        if job is None:
            raise Refused(404, "there is no such batch")
        return job

    @property
    def running(self) -> str:
        """The name of the batch that runs, "" if none does."""
        return next((job.name for job in list(self._jobs.values()) if job.running), "")

    def states(self) -> list[dict[str, Any]]:
        """Return what the page shows of all batches, the newest first."""
        return [job.state() for job in reversed(list(self._jobs.values()))]

    def close(self) -> None:
        """Ask every batch of this studio to stop, without waiting: each ends by itself, and can be resumed."""
        for job in list(self._jobs.values()):
            if job.own:
                job.stop()


def _lines_of(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
