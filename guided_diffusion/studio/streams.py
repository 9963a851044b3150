"""Events that the page reads as they come: told by any thread, kept, and read from the start by every reader."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

_PATIENCE = 0.25  # seconds after which a stream looks whether the studio closes
_QUIET = 40  # such times until a comment keeps the connection alive

Closing = Callable[[], bool]


class EventLog:
    """The events of one draw."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._ended = False
        self._wakers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()

    def add(self, event: dict[str, Any], *, last: bool = False) -> None:
        """Tell an event; last: the stream ends after it. Nothing follows the last one."""
        with self._lock:
            if self._ended:
                return
            self._events.append(as_line(event))
            self._ended = last
            wakers = list(self._wakers)
        for wake in wakers:
            with suppress(RuntimeError):  # the loop has ended
                wake()

    async def read(self, closing: Closing) -> AsyncIterator[bytes]:
        """Yield all events from the first to the last."""
        loop, changed, position, quiet = asyncio.get_running_loop(), asyncio.Event(), 0, 0

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._wakers.add(wake)
        try:
            while True:
                changed.clear()
                with self._lock:
                    new, ended = self._events[position:], self._ended
                position += len(new)
                for line in new:
                    yield line
                if ended or closing():
                    return
                quiet = 0 if new else quiet + 1
                if quiet == _QUIET:
                    quiet = 0
                    yield b":\n\n"
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _PATIENCE)
        finally:
            with self._lock:
                self._wakers.discard(wake)


async def polled(look: Callable[[], list[dict[str, Any]]], closing: Closing, seconds: float) -> AsyncIterator[bytes]:
    """Yield the events that `look`, called in a thread every few seconds, finds; without an end."""
    quiet, waited = 0, seconds
    while not closing():
        if waited >= seconds:
            waited = 0.0
            events = await run_in_threadpool(look)
            quiet = 0 if events else quiet + 1
            for event in events:
                yield as_line(event)
        if quiet == _QUIET:
            quiet = 0
            yield b":\n\n"
        await asyncio.sleep(_PATIENCE)
        waited += _PATIENCE


def as_line(event: dict[str, Any]) -> bytes:
    """Return an event as text/event-stream has it."""
    return b"data: " + json.dumps(event, allow_nan=False).encode() + b"\n\n"


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Return the answer that streams events."""
    return StreamingResponse(events, media_type="text/event-stream")
