"""What routes answer with: label maps as raw bytes, and tables of handlers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from numpy.typing import NDArray

Handler = Callable[[Request], Awaitable[Response]]
LISTED = 48
"""Entries of a page of a list."""


def routes_of(**tables: Mapping[str, Handler]) -> list[Route]:
    """Return the routes of tables, path -> handler, by their methods."""
    return [
        Route(path, handler, methods=[method]) for method, table in tables.items() for path, handler in table.items()
    ]


def json_answer(content: Any, status: int = 200) -> Response:
    """Return an answer in JSON; names of files may hold bytes that are no text, which stay escaped."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


def label_answer(label: NDArray[Any]) -> Response:
    """Return a map [H, W] of numbers as raw bytes, row by row."""
    kind = "u8" if label.dtype.itemsize == 1 else "u16"
    content = label.astype("<u1" if kind == "u8" else "<u2").tobytes()
    headers = {"x-size": f"{label.shape[0]},{label.shape[1]}", "x-type": kind}
    return Response(content, media_type="application/octet-stream", headers=headers)
