"""The log of a run: text, metrics as JSON lines and in trackers; and the records of options and versions."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from guided_diffusion.runtime.files import make_folder, reporting_os_errors, write_text
from guided_diffusion.runtime.trackers import Trackers

LIBRARIES = ("isdm", "torch", "torchvision", "numpy", "pillow", "pydantic")


class RunLog:
    """Writes `log.txt` and `metrics.jsonl` into a run's folder, and metrics to trackers (see `trackers.PACKAGES`).

    Not `enabled`, it does nothing. settings: those of the run, for the trackers.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        enabled: bool = True,
        trackers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ):
        self.folder = Path(folder)
        self._enabled = enabled
        self._names, self._settings = tuple(trackers), settings or {}
        self._trackers: Trackers | None = None
        self._text = self._metrics = None

    def info(self, message: str) -> None:
        """Print a line above the progress bar and append it to the text log."""
        if not self._enabled:
            return
        try:
            tqdm.write(message, file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            # The reader of the output may have ended (`| head`), which Windows calls an invalid argument.
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise
        with reporting_os_errors(self.folder / "log.txt"):
            if self._text is None:
                make_folder(self.folder)
                self._text = open(self.folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            self._text.write(message + "\n")
            self._text.flush()

    def start_metrics(self, epochs_done: int, steps_done: int) -> None:
        """Open `metrics.jsonl` and the trackers, removing what a resumed run will write again."""
        if not self._enabled:
            return
        path = self.folder / "metrics.jsonl"
        lines = read_json_lines(path) if path.exists() else []
        done = [line for line in lines if line.get("epoch", 0) <= epochs_done]
        write_text(path, "".join(json.dumps(line) + "\n" for line in done))
        self._metrics = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if self._names:
            first = steps_done + 1
            self._trackers = Trackers(self._names, self.folder, self._settings, first_step=first, warn=self.info)

    def log_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line of metrics; `step` counts optimizer steps."""
        if self._metrics is None:
            return
        # JSON has no NaN, the loss of an epoch without a single good step.
        line = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        with reporting_os_errors(self.folder / "metrics.jsonl"):
            self._metrics.write(json.dumps({"step": step, **line}) + "\n")
            self._metrics.flush()
        if self._trackers is not None:
            numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
            self._trackers.log(step, numbers)

    def close(self) -> None:
        """Flush and close every file."""
        if self._trackers is not None:
            self._trackers.close()
        for stream in (self._text, self._metrics):
            # A full disk was reported before, and must not hide the error that ended the run.
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, without lines cut short by a kill or damaged otherwise."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]


def write_run_record(folder: str | Path, action: str, config: Mapping[str, Any]) -> None:
    """Write `config.json`, which can be given to -c, and `environment.json` (versions, seed) into `folder`."""
    record = {"action": action, "seed": config.get("seed"), **library_versions()}
    for name, content in (("config.json", config), ("environment.json", record)):
        write_text(Path(folder) / name, json.dumps(content, indent=2) + "\n")


def read_run_record(folder: str | Path, name: str = "config.json") -> dict[str, Any]:
    """Return a file that `write_run_record` wrote into `folder`, empty if there is none."""
    try:
        content = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of Python, the platform and the libraries that results depend on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in names},
    }


@cache  # read from files, for every checkpoint; what a process has loaded stays what it was
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
