"""Shared by the scripts: new folders, copies, threads, numbers of the command line, what a user's mistake ends with."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from evaluations.errors import EvaluationError
from guided_diffusion.runtime.errors import ConfigError, UserError
from guided_diffusion.runtime.files import atomic_write, leftovers, make_folder, move, reporting_os_errors

Item = TypeVar("Item")
Result = TypeVar("Result")


def refuse_filled(output: Path) -> None:
    """Raise ConfigError unless `output` is an empty folder or not there, so that nothing is ever overwritten.

    What a killed script has left of `written_whole` is removed.
    """
    if output.is_dir():
        for path in leftovers(output):
            shutil.rmtree(path, ignore_errors=True)
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        found = "holds files" if output.is_dir() else "is a file"
        raise ConfigError(f"--output: {output} {found}; choose a new folder, or empty this one")


def refuse_inside(output: Path, source: Path) -> None:
    """Raise ConfigError if `output` is `source` or lies in it, where its files would count as files of the source."""
    if output.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--output: {output} is in {source}, which is read; choose a folder elsewhere")


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """Yield a folder for files that come into the empty folder `output` when the block succeeds; else nothing stays.

    So a dataset that is there is complete, also after an interruption or on a full disk.
    """
    is_new = not output.exists()
    make_folder(output)
    folder = output / f".dataset.{os.getpid()}.tmp"
    try:
        with reporting_os_errors(output):
            folder.mkdir()
            yield folder
            for path in sorted(folder.iterdir()):
                move(path, output / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it holds the dataset
                output.rmdir()


def put(source: str | Path, target: Path, *, link: bool) -> None:
    """Copy a file atomically, or make `target` a hard link to it."""
    if link:
        make_folder(target.parent)
        with reporting_os_errors(target):
            os.link(source, target)
        return
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], description: str) -> list[Result]:
    """Return what `function` gives for every item, in order, computed in threads; the first error stops it."""
    executor = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1))
    try:
        futures = [executor.submit(function, item) for item in items]
        with tqdm(futures, desc=description, unit="file") as progress:  # ends its line before an error is printed
            return [future.result() for future in progress]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def named(values: Iterable[object], most: int = 5) -> str:
    """Return the first `most` values as text, and that there are more of them."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def share(text: str) -> float:
    """Read a number above 0 and below 1, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, found {text!r}")
    return number


def positive(text: str) -> int:
    """Read an integer above 0, for argparse."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def natural(text: str) -> int:
    """Read an integer of at least 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, found {text!r}")
    return int(text)


def pattern(text: str) -> str:
    """Read a regular expression, for argparse."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"expected a regular expression, found {text!r} ({error})") from None
    return text


@contextmanager
def mistakes_in_lines() -> Iterator[None]:
    """End the script where a user's mistake is found inside: one line for each finding, exit code 2."""
    try:
        yield
    except (UserError, EvaluationError) as error:
        for line in error.messages if isinstance(error, UserError) else [str(error)]:
            print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None


def run_script(main: Callable[..., None], *arguments: Any) -> None:
    """Run a script with `mistakes_in_lines`."""
    with mistakes_in_lines():
        main(*arguments)
