"""The command line in a process of its own, forked from one that has imported PyTorch: a start takes no seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from command_line import arguments_of

_HOW = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT = multiprocessing.get_context(_HOW)
_ACTIONS = [
    f"guided_diffusion.actions.{name}" for name in ("train", "sample", "masks", "place", "segment", "generate", "study")
]
# An optimizer imports torch._dynamo, a loss curve matplotlib.
_CONTEXT.set_forkserver_preload([*_ACTIONS, "torch._dynamo", "matplotlib.figure", "pytest"])


def _run(arguments: list[str], shown: str, environment: dict[str, str], start_method: str) -> None:
    # A process has the method by which it was started; its own workers are to start as a user's do.
    multiprocessing.set_start_method(start_method, force=True)
    if hasattr(os, "setsid"):
        os.setsid()  # signals to its group do not reach the tests
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    target = os.open(shown, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.environ.update(environment)

    import torch

    from guided_diffusion import cli

    torch.set_num_threads(torch.get_num_threads())  # of a forked process: see `study.at_once`
    sys.exit(cli.main(arguments))


def start(
    action: str, values: Mapping[str, Any], shown: str | Path = os.devnull, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start `action` with these keys, leading a process group; what it prints goes to the file `shown`."""
    arguments = arguments_of(action, **values)
    own = (arguments, str(shown), dict(environment or {}), multiprocessing.get_start_method())
    process = _CONTEXT.Process(target=_run, args=own)
    process.start()
    return process


def start_function(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a function of a module of tests/support, in a process forked from one without threads."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def serve() -> None:
    """Start the process from which others are forked, so that it has imported the actions whoever forks from it first.

    Python has one of them: what is imported there is up to the first that starts a process so.
    """
    finish(start_function(os.getpid))


def finish(process: BaseProcess, seconds: float = 120) -> int:
    """Return the exit code of a process, -n after signal n; fails where it does not end."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(f"a process did not end within {seconds:g} seconds")
    return process.exitcode


def kill_at_files(process: BaseProcess, folder: Path, count: int, seconds: float = 120) -> None:
    """Kill a process with SIGKILL as soon as there are `count` PNG files below `folder`."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline and len(list(folder.rglob("*.png"))) < count:
        time.sleep(0.005)
    process.kill()
    process.join()


def kill_when(process: BaseProcess, folder: Path, pattern: str, count: int) -> bool:
    """Kill a process as soon as there are `count` such files; return whether it was running still."""
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline and len(list(folder.glob(pattern))) < count:
        time.sleep(0.002)
    running = process.is_alive()
    process.kill()
    process.join()
    return running


def start_pair(action: str, values: Mapping[str, Any], shown: Path) -> list[BaseProcess]:
    """Start two processes that are told of each other as torchrun does it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    return [
        start(action, values, shown.with_suffix(f".{rank}"), {**told, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
