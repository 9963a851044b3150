"""`--dry-run`: what an action would read and write, and how much of it; nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from guided_diffusion.pipelines.output import refuse_other_record
from guided_diffusion.runtime.errors import ConfigError, one_line
from guided_diffusion.runtime.hub_address import is_address
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.runtime.options import ActionConfig
from guided_diffusion.runtime.units import size_in_words

MOST_FILES, MOST_SECONDS = 50_000, 2.0
"""How far the files of a folder are counted."""

Plan = Callable[[Any], Sequence[str]]
"""What an action says of a configuration before it begins: lines, or a UserError where it could not."""


def dry_run(config: ActionConfig, given: Collection[str], plan: Plan | None) -> None:
    """Print the resolved configuration, what would be read and written, and the lines of `plan`.

    given: the keys that the user gave. Raises UserError with a line for everything that is missing, or that the action
    would refuse in its plan.
    """
    print(f"dry run of {config.action()}: nothing is written\n\nconfiguration:\n{_configuration(config, given)}")
    read, missing = _read(config)
    written, refused = _written(config)
    for title, lines in (("reads", read), ("writes", written)):
        print(f"\n{title}:")
        for line in lines or ["  no files"]:
            print(f"  {line}" if lines else line)
    if missing or refused:
        raise ConfigError.of_keys(*missing, *refused)
    lines = [] if plan is None else plan(config)
    if lines:
        print("\nplan:")
        for line in lines:
            print(f"  {one_line(line)}")
    print(
        f"\n{config.action()} could start; what only shows when files are opened is told by `check` and by the action"
    )


def _configuration(config: ActionConfig, given: Collection[str]) -> str:
    """Return the keys that were given or are unlike their defaults as JSON, and how many others there are."""
    values, fields = config.to_json(), config.fields()
    shown = {
        key: value
        for key, value in values.items()
        if key in given or value != json.loads(json.dumps(fields[key].default))
    }
    left = len(values) - len(shown)
    note = f"{left} more keys have their defaults: main.py {config.action()} --help all"
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in shown.items()]
    return "\n".join(["{", ",\n".join(lines), "}", note])


def _paths(config: ActionConfig, *, written: bool) -> list[tuple[str, str]]:
    """Return (key, path) of the paths that are given and are read, or are written."""
    keys = [key for key in config.fields() if config.facts(key).path and config.facts(key).written == written]
    return [(key, str(config.get(key))) for key in keys if config.get(key)]


# ------------------------------------------------------------------------------------------------- what is read


def _read(config: ActionConfig) -> tuple[list[str], list[tuple[str, str]]]:
    """Return a line for each path that is read, and the problems of those that do not exist."""
    lines, missing = [], []
    for key, value in _paths(config, written=False):
        path = Path(value).absolute()
        if config.facts(key).hub and is_address(value):
            lines.append(f"{key}: {value}, from the Hugging Face Hub; its files are downloaded to the cache")
        elif "://" in value:
            lines.append(f"{key}: {value}, in the cloud, which is not asked")
        elif path.exists():
            lines.append(f"{key}: {path}, {content_of(path)}")
        elif config.facts(key).words and not path.suffix and path.name == value:
            lines.append(f"{key}: {value}, no file")
        else:
            lines.append(f"{key}: {path}, does not exist")
            missing.append((key, f"{key} is {value}, which does not exist ({path}): check the path"))
    return lines, missing


def content_of(path: Path) -> str:
    """Return the size of a file in words, or number and size of the files below a folder, as far as it counts them."""
    if not path.is_dir():
        return f"a file of {size_in_words(path.stat().st_size)}"
    count, size, todo, deadline = 0, 0, [path], time.monotonic() + MOST_SECONDS
    while todo and count < MOST_FILES and time.monotonic() < deadline:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:  # not readable: the action says so where it needs it
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                todo.append(Path(entry.path))
            elif entry.is_file():
                count, size = count + 1, size + entry.stat().st_size
    more = " or more" if todo else ""
    return f"a folder of {count}{more} files, {size_in_words(size)}{more}"


# ------------------------------------------------------------------------------------------------- what is written


def _written(config: ActionConfig) -> tuple[list[str], list[tuple[str, str]]]:
    """Return a line for each path that is written, and the problems of those that cannot be."""
    lines, refused = [], []
    for key, value in _paths(config, written=True):
        path = Path(value).absolute()
        if key == "results_path" and "split" in config.fields():
            path = path / config.get("split")
        above = next(folder for folder in (path, *path.parents) if folder.exists())
        free = size_in_words(shutil.disk_usage(above).free)
        lines.append(f"{key}: {path}, {_state(path, config.action())}, {free} free there")
        if not os.access(above, os.W_OK) or (above != path and not above.is_dir()):
            what = "may not be written" if above.is_dir() else "is a file, no folder"
            refused.append((key, f"{key} is {value}, but {above} {what}: choose another place"))
        elif path.is_file() and key != "export_path":  # which is a file itself where weights are exported
            refused.append((key, f"{key} is {value}, which is a file, no folder: choose another place"))
        try:
            refuse_other_record(key, path, config.action())
        except ConfigError as error:
            refused += [(key, line) for line in error.messages]
    return lines, refused


def _state(path: Path, action: str) -> str:
    if not path.exists():
        return "does not exist yet"
    if not path.is_dir():
        return f"exists already, {content_of(path)}"
    there = read_run_record(path, "environment.json").get("action")
    if there is None:
        return "exists" if any(path.iterdir()) else "exists and is empty"
    return f"has results of {there}" + (", which would be continued" if there == action else "")
