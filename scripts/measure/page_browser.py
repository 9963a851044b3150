"""A headless Chromium for scripts about the studio's page: playwright, and a browser on the PATH or in CHROMIUM."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guided_diffusion.runtime.errors import DataError

STATIC = Path(__file__).parents[2] / "guided_diffusion" / "studio" / "static"
PATIENCE = 180_000  # ms, for a busy machine
HOST = "http://studio.invalid"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def headless() -> Iterator[Any]:
    """Yield a browser (Playwright's); DataError where playwright or the browser is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise DataError.of("playwright", "is not installed", "pip install playwright") from error
    path = os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise DataError.of("CHROMIUM", f"is not set, and none of {', '.join(NAMES)} is on the PATH", "install Chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        try:
            yield browser
        finally:
            browser.close()


def open_modules(browser: Any, **options: Any) -> Any:
    """Return a page in which `await import("/static/….js")` works, without a server; options of its context."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE)

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(f"{HOST}/static/")
        if name == route.request.url:
            route.fulfill(body="<!doctype html><title>studio</title>", content_type="text/html")
        else:
            route.fulfill(body=(STATIC / name).read_text(encoding="utf-8"), content_type="text/javascript")

    page.route(f"{HOST}/**", answer)
    page.goto(f"{HOST}/")
    return page
