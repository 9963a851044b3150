"""What comes before every route: who may ask, how much, and what every answer forbids a browser.

A page of another origin can send requests to 127.0.0.1, and a name that it owns can be made to point there (DNS
rebinding), so each request has to name this host, come from this page, and carry the token that only this page knows.
"""

from __future__ import annotations

import json
import re
import secrets
import traceback
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guided_diffusion.runtime.errors import UserError, lacks_memory, one_line

TOKEN_HEADER = b"x-isdm-token"
_HOST = re.compile(rb"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""Of a report, which is a page of its own."""
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
SMALL_BODY, LARGEST_BODY = 4096, 64 * 2**20
"""Bytes of a body: of any request, and of one with labels, which has a limit of its own by their number."""
_TYPES = {"/api/draws": b"application/octet-stream"}


class Refused(Exception):
    """A request that is not answered: the status, and one line that says why."""

    def __init__(self, status: int, line: str):
        self.status, self.line = status, line
        super().__init__(line)


class Guard:
    """Lets through to `app` what comes from the page of `token`; every error becomes one line of JSON."""

    def __init__(self, app: ASGIApp, token: str):
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_headers(message["headers"])
            await send(message)

        try:
            self._check(scope)
            scope["app"] = self  # the router raises what it would otherwise answer itself
            await self._app(scope, receive, guarded)
        except ClientDisconnect:
            return
        except Exception as error:
            status, line = _as_answer(error)
            if started:  # a stream, which ends here
                raise
            await _answer(guarded, status, line)

    def _check(self, scope: Scope) -> None:
        headers = _Headers(scope)
        path, method = scope["path"], scope["method"]
        host = headers.only(b"host")
        if host is None or not _HOST.fullmatch(host):
            raise Refused(421, "this address is not the studio's: open the one that it printed")
        origin = headers.only(b"origin")
        if headers.has(b"origin") and (origin is None or origin.lower() != b"http://" + host.lower()):
            raise Refused(403, "another page asked: refused")
        _check_site(headers, path, method)
        if method not in ("GET", "HEAD", "POST", "DELETE"):
            raise Refused(405, f"{method[:20]} is not answered")
        if path.startswith("/api"):
            given = headers.only(TOKEN_HEADER)
            if given is None or not secrets.compare_digest(given, self._token):
                raise Refused(401, "the token is missing or of an earlier start: open the address that was printed")
        _check_body(headers, path, method)


class _Headers:
    """The headers of a request, of which one given twice has no value."""

    def __init__(self, scope: Scope):
        self._all = scope["headers"]

    def has(self, name: bytes) -> bool:
        return any(key == name for key, _ in self._all)

    def only(self, name: bytes) -> bytes | None:
        found = [value for key, value in self._all if key == name]
        return found[0] if len(found) == 1 else None


def _check_site(headers: _Headers, path: str, method: str) -> None:
    """Raise Refused for what a browser says that another page asks for; programs that are no browser say nothing."""
    if not headers.has(b"sec-fetch-site"):
        return
    site, opens = headers.only(b"sec-fetch-site"), headers.only(b"sec-fetch-mode") == b"navigate"
    # The shell holds no data, and is what a link, a bookmark or the file that opens the browser leads to.
    as_page = method == "GET" and opens and headers.only(b"sec-fetch-dest") == b"document"
    shell = path == "/" and as_page and site in (b"none", b"cross-site")
    ticket = path.startswith("/view/") and as_page and site == b"none"
    if site != b"same-origin" and not shell and not ticket:
        raise Refused(403, "another page asked: refused")


def _check_body(headers: _Headers, path: str, method: str) -> None:
    if method != "POST":
        length = headers.only(b"content-length") or b"0"
        if headers.has(b"transfer-encoding") or length != b"0":
            raise Refused(413, f"{method} takes no body")
        return
    length = headers.only(b"content-length")
    if length is None or not re.fullmatch(rb"[0-9]{1,9}", length) or headers.has(b"transfer-encoding"):
        raise Refused(411, "the length of the body is missing")
    if int(length) > (LARGEST_BODY if path == "/api/draws" else SMALL_BODY):
        raise Refused(413, "the body is too large")
    wanted = _TYPES.get(path, b"application/json")
    given = (headers.only(b"content-type") or b"").split(b";")[0].strip().lower()
    if given != wanted and int(length):
        raise Refused(415, f"the body has to be {wanted.decode()}")


def _with_headers(given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with those of the studio, unless a route has its own of that name."""
    own = {key.lower() for key, _ in given}
    return [*given, *((key.encode(), value.encode()) for key, value in _HEADERS.items() if key.encode() not in own)]


def _as_answer(error: Exception) -> tuple[int, str]:
    """Return status and line of an error; those that are nobody's mistake are printed with their traceback."""
    if isinstance(error, Refused):
        return error.status, error.line
    if isinstance(error, HTTPException):
        return error.status_code, "there is no such address" if error.status_code == 404 else error.detail
    if isinstance(error, UserError):
        return 400, error.messages[0]
    if lacks_memory(error):
        return 507, one_line(f"memory: {error}")
    traceback.print_exception(error)
    return 500, "something went wrong here: the terminal of the studio says what"


async def _answer(send: Send, status: int, line: str) -> None:
    body = json.dumps({"error": line}).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
