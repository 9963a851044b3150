"""The server of the studio: 127.0.0.1 alone, a token for each start, and gone soon after Ctrl-C."""

from __future__ import annotations

import html
import logging
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import uvicorn

from guided_diffusion.config.studio import StudioConfig
from guided_diffusion.runtime.errors import ConfigError, one_line
from guided_diffusion.runtime.lock import folder_lock
from guided_diffusion.runtime.signals import StopRequested
from guided_diffusion.studio.app import Routes
from guided_diffusion.studio.desk import Desk

HOST = "127.0.0.1"
"""No key changes it: from another machine the way is `ssh -L`."""
_GRACE = 1  # seconds that open answers get
_DESK_ENDS = 1.0  # seconds that the thread of the model gets
_SHOWN_ERROR = 1.5  # seconds in which the page can read why the studio could not be opened


class _Server(uvicorn.Server):
    """Tells the desk at once that the studio is being left, so that streams and draws end."""

    def __init__(self, config: uvicorn.Config, desk: Desk):
        super().__init__(config)
        self._desk = desk
        self.left_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.left_by = sig
        self._desk.close()
        super().handle_exit(sig, frame)


class Studio:
    """A studio that listens on 127.0.0.1; `run` serves it in the thread that calls it."""

    def __init__(self, config: StudioConfig, listener: socket.socket):
        token = secrets.token_urlsafe(32)
        self.address = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
        self.desk = Desk(config, on_failure=self._leave)
        self._folder = Path(config.results_path) / config.split
        self._listener, self._routes = listener, Routes(self.desk)
        settings = uvicorn.Config(
            self._routes.app(token),
            log_level="error",
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = _Server(settings, self.desk)
        logging.getLogger("asyncio").addFilter(_is_no_reset)

    def run(self, announced: AbstractContextManager[None] | None = None) -> None:
        """Serve until a signal or `stop`, within `announced` as soon as the folder of accepted pairs is taken.

        Raises InUseError, why the workplace could not be opened, KeyboardInterrupt on Ctrl-C.
        """
        with folder_lock(self._folder, "studio"), announced or nullcontext():
            self._serve()

    def _serve(self) -> None:
        self.desk.start()
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self.desk.close()
            self._routes.close()
            self.desk.join(_DESK_ENDS)
        if self._server.left_by is not None:
            # uvicorn sends the signal on, which does nothing where it was ignored, as in what a shell starts by `&`.
            raise StopRequested(self._server.left_by)
        if self.desk.failure is not None:
            raise self.desk.failure

    def stop(self) -> None:
        """Have `run` end; called in any thread."""
        self.desk.close()
        self._server.should_exit = True

    def _leave(self) -> None:
        time.sleep(_SHOWN_ERROR)
        self._server.should_exit = True


def _is_no_reset(record: logging.LogRecord) -> bool:
    """Return whether a line is other than the traceback of asyncio on Windows for each page that is closed."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionResetError))


def serve(config: StudioConfig) -> None:
    """Print the address, open it, and serve until a signal; see `Studio.run`. ConfigError where the port is taken."""
    with listening(config.port) as listener:
        studio = Studio(config, listener)
        studio.run(_announced(studio.address, config.open_browser))


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens on this machine alone; ConfigError where the port is taken."""
    # With the protocol named, asyncio sends at once what an answer has after its head; else that waits for up to 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name != "nt":  # there it would let a second program take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(64)
        except OSError as error:
            line = f"port is {port}, which cannot be used ({error.strerror}): choose another, or 0 for a free one"
            raise ConfigError.of_keys(("port", one_line(line))) from error
        yield listener
    finally:
        listener.close()


@contextmanager
def _announced(address: str, open_browser: bool) -> Iterator[None]:
    """Print the address, and open it by way of a file that only this user can read.

    Other users see the arguments of a program.
    """
    print(f"the studio is at  {address}\nCtrl-C ends it", flush=True)
    if not open_browser or not _has_screen():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="isdm-studio-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "open.html"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(redirect_page(address))
        threading.Thread(target=webbrowser.open, args=[path.as_uri()], daemon=True).start()
        yield


def redirect_page(address: str) -> str:
    """Return a page that leads to `address`."""
    shown = html.escape(address, quote=True)
    head = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={shown}">'
    return f'{head}<a href="{shown}">studio</a>\n'


def _has_screen() -> bool:
    """Return whether there is one: without it, a browser in the terminal would be opened."""
    if os.name == "nt" or sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
