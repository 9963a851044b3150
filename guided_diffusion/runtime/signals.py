"""Signals that ask a run to stop: at the next safe point in training, at once in everything else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

HANGUP = getattr(signal, "SIGHUP", None)
"""A terminal was closed, or the connection to it lost; Windows has no such signal."""
BREAK = getattr(signal, "SIGBREAK", None)
"""Ctrl-Break, which only Windows has: the one signal that the studio can send to a batch there."""
STOP_SIGNALS: tuple[int, ...] = (
    signal.SIGTERM,
    signal.SIGINT,
    *(number for number in (HANGUP, BREAK) if number is not None),
)


class StopRequested(KeyboardInterrupt):
    """A signal asked to stop where nothing has to be saved: what was begun is cleaned up on the way out."""

    def __init__(self, signal_number: int):
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


class GracefulExit:
    """While entered, the first stop signal only sets `signal_number`; a second one has its usual effect.

    SIGHUP is never the second one: when a terminal is closed, its system and its shell send one each.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> GracefulExit:
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in caught_signals()}
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore(*self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = self.signal_number or number
        if number == HANGUP:
            leave_lost_terminal()
        else:
            self._restore(*(self._previous.keys() - {HANGUP}))

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Have stop signals raise StopRequested (SIGINT: KeyboardInterrupt) while the block runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        if number == HANGUP:
            leave_lost_terminal()
        raise StopRequested(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, stop) for number in caught_signals() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def caught_signals() -> list[int]:
    """Return the stop signals without SIGHUP where it is ignored, as `nohup` has it."""
    return [number for number in STOP_SIGNALS if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN]


def leave_lost_terminal() -> None:
    """Print to nowhere where the terminal of this process is gone: every line would be an error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def processes_are_forked() -> bool:
    """Tell whether a process that is started is a copy of this one, with all that is in its memory."""
    # The first one is the default, which is not settled by asking like this.
    return (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) == "fork"


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Keep stop signals waiting while processes are started, which then begin with them waiting, too."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if not processes_are_forked():
        # Where it is started within the block, it lets SIGINT and SIGTERM through afterwards.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_trainer(worker: int = 0) -> None:
    """Keep stop signals to a whole job, or a whole terminal, from ending a loading process within a step.

    The trainer ends its workers when it is done; where it is killed, they notice that it is gone.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if hasattr(signal, "pthread_sigmask"):
        # SIGTERM is also how the trainer ends a worker, so that it matters who sends it: that only a wait tells.
        telling = hasattr(signal, "sigwaitinfo")
        if telling:
            threading.Thread(target=_end_with_the_trainer, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM} if telling else set())


def _end_with_the_trainer() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    trainer = multiprocessing.parent_process()
    while trainer is None or signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer.pid:
        pass
    os._exit(0)
