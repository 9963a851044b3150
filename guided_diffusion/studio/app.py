"""The application of the studio: its page, and all routes behind the guard.

Routes name things by indices and ids that the server made, never by paths.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router

from guided_diffusion.studio.answers import json_answer, routes_of
from guided_diffusion.studio.desk import Desk
from guided_diffusion.studio.draw_routes import DrawRoutes
from guided_diffusion.studio.guard import Guard, Refused
from guided_diffusion.studio.real_routes import RealRoutes
from guided_diffusion.studio.run_routes import RunRoutes

STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
}


class Routes:
    """All routes of a studio, and those of its page."""

    def __init__(self, desk: Desk):
        self._desk, self._runs = desk, RunRoutes(desk)
        # A fixed table: no name in a request is ever joined to a folder.
        self._static = {path.name: path for path in STATIC.iterdir() if path.suffix in _TYPES}

    def app(self, token: str) -> Guard:
        """Return the application, its guard first."""
        page = routes_of(GET={"/": self.shell, "/static/{name}": self.static, "/api/run": self.run})
        others = (RealRoutes(self._desk), DrawRoutes(self._desk), self._runs)
        routes = [*page, *(route for each in others for route in each.routes())]
        return Guard(Router(routes, redirect_slashes=False), token)

    def close(self) -> None:
        """Ask the batches to stop."""
        self._runs.close()

    async def shell(self, request: Request) -> Response:
        """Answer the page, which holds no data."""
        content = self._static["index.html"].read_bytes()
        self._desk.page_served.set()
        return Response(content, media_type=_TYPES[".html"])

    async def static(self, request: Request) -> Response:
        """Answer a file of the page, by its name in a fixed table."""
        path = self._static.get(request.path_params["name"])
        if path is None:
            raise Refused(404, "there is no such file")
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix])

    async def run(self, request: Request) -> Response:
        """Answer what the page asks first; it waits until the model is opened."""
        self._desk.page_served.set()
        # The page comes before torch: what it asks first waits here for the model to be opened.
        while not self._desk.opened.is_set() and not self._desk.closing():
            await asyncio.sleep(0.05)
        return json_answer(await run_in_threadpool(self._desk.state))
