"""Tickets: an address that opens once, within a minute, in a tab of its own, which cannot send the token."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path

LIFETIME = 60.0
"""Seconds in which a ticket can be used."""


class Tickets:
    """Files that are served once to whoever has the ticket."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Path, float]] = {}
        self._lock = threading.Lock()

    def issue(self, path: Path) -> str:
        """Return a ticket for a file."""
        ticket, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._files = {name: entry for name, entry in self._files.items() if now - entry[1] < LIFETIME}
            self._files[ticket] = path, now
        return ticket

    def redeem(self, ticket: str) -> Path | None:
        """Return the file of a ticket, and take the ticket; None for one that was used, is too old or never was."""
        with self._lock:
            path, issued = self._files.pop(ticket, (None, 0.0))
        return path if path is not None and time.monotonic() - issued < LIFETIME else None
