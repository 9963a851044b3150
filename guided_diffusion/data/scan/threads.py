"""Reading many files at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

_Entry = TypeVar("_Entry")
_Result = TypeVar("_Result")


def in_threads(
    work: Callable[[_Entry], _Result], entries: Sequence[_Entry], description: str, progress: bool
) -> list[_Result]:
    """Return `work` of every entry, in order; an interrupt cancels what has not begun."""
    executor = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1))
    try:
        futures = [executor.submit(work, entry) for entry in entries]
        for future in tqdm(
            as_completed(futures), total=len(futures), desc=description, unit="file", disable=not progress
        ):
            future.result()
        return [future.result() for future in futures]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
