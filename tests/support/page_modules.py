"""The modules of the studio's page in a headless browser, without its server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import chromium

STATIC = Path(__file__).parents[2] / "guided_diffusion" / "studio" / "static"
HOST = "http://studio.test"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


def serve_static(page: Any) -> None:
    """Answer `page`'s requests to HOST/static/ with the files of the page, and HOST itself with an empty document."""

    def answer(route: Any) -> None:
        path = STATIC / route.request.url.removeprefix(f"{HOST}/static/")
        if route.request.url == f"{HOST}/":
            route.fulfill(body="<!doctype html><title>modules</title>", content_type="text/html")
        else:
            route.fulfill(body=path.read_text(encoding="utf-8"), content_type=TYPES[path.suffix])

    page.route(f"{HOST}/**", answer)


@contextmanager
def modules() -> Iterator[Any]:
    """Yield a page in which `await import("/static/….js")` works."""
    with chromium() as browser:
        page = browser.new_page()
        serve_static(page)
        page.goto(HOST)
        yield page
