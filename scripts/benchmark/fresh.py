"""Functions in a process of their own, for measurements that look at the memory of a whole process."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")


def in_fresh_process(function: Callable[P, T], *arguments: P.args, **keys: P.kwargs) -> T:
    """Return what `function`, of a module, returns in a new process, which ends afterwards.

    On Linux it is forked from one that has imported the module. Raises ChildProcessError with what `function` raised,
    or that it was killed.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([function.__module__])
    with ProcessPoolExecutor(1, context) as process:
        try:
            return process.submit(function, *arguments, **keys).result()
        except Exception as error:
            raise ChildProcessError(f"{type(error).__name__}: {error}") from error
