"""Open a report in headless Chromium and check what only a browser can see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

DESKTOP, PHONE, NARROW = (1280, 800), (390, 844), (360, 740)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Pictures that did not load.
BROKEN = """() => [...document.images]
  .filter(image => !image.complete || image.naturalWidth === 0)
  .map(image => image.alt)"""

# Elements that reach out of the page sideways, unless they lie in a box that scrolls by itself.
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = element => element && (/auto|scroll/.test(getComputedStyle(element).overflowX)
    || scrolls(element.parentElement));
  return [...document.body.querySelectorAll('*')]
    .filter(element => element.getBoundingClientRect().right > width + 1 && !scrolls(element.parentElement))
    .map(element => element.tagName + '.' + element.getAttribute('class') + ': ' + element.textContent.slice(0, 40));
}"""

# Text whose contrast to what lies behind it is below 4.5 (WCAG 2.2, 1.4.3), with that contrast.
FAINT = """() => {
  const parse = color => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color[3] === 1) return color;
    }
    return [255, 255, 255, 1];
  };
  const faint = [];
  for (const element of document.body.querySelectorAll('*')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(contrast.toFixed(2) + ': ' + element.textContent.slice(0, 40));
  }
  return faint;
}"""

# Levels of the headings, in their order.
HEADINGS = (
    """() => [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(heading => Number(heading.tagName[1]))"""
)


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a headless browser (Playwright's); skips the test, saying why, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("CHROMIUM")
    path = named or next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH, and CHROMIUM is not set")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


def check_report(path: str | Path) -> None:
    """Raise AssertionError where the report at `path` does not open as it should.

    Both color schemes on a desktop and two phones: no error, no request beyond the file, all pictures loaded, the
    verdict on the first screen, nothing that makes the page scroll sideways, enough contrast, headings in order.
    """
    with chromium() as browser:
        check_in(browser, path)


def check_in(browser: Any, path: str | Path, sizes: Sequence[tuple[int, int]] = (DESKTOP, PHONE, NARROW)) -> None:
    """Do what check_report does in an open browser, on screens of `sizes`."""
    backgrounds = {
        scheme: [_check_page(browser, Path(path), size, scheme) for size in sizes] for scheme in ("light", "dark")
    }
    assert set(backgrounds["light"]).isdisjoint(backgrounds["dark"]), "the dark page is as the light one"


def _check_page(browser: Any, path: Path, size: tuple[int, int], scheme: str) -> str:
    """Check the page on a screen of `size` (width, height in CSS pixels); return its background color."""
    where = f"{path.name} at {size[0]}x{size[1]}, {scheme}"
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    problems, requests = [], []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:80]}"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.resolve().as_uri(), wait_until="load")

    broken = page.evaluate(BROKEN)
    assert not broken, f"{where}: pictures that did not load: {broken}"
    _check_verdict(page, size, where)
    wide = page.evaluate(TOO_WIDE)
    assert not wide, f"{where}: wider than the page: {wide}"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), where
    faint = page.evaluate(FAINT)
    assert not faint, f"{where}: text in too little contrast: {faint}"
    levels = page.evaluate(HEADINGS)
    assert levels[:1] == [1], f"{where}: the first heading is not the title"
    assert levels.count(1) == 1, f"{where}: more than one title"
    assert all(after <= before + 1 for before, after in pairwise(levels)), f"{where}: {levels}"
    assert not problems, f"{where}: {problems}"
    elsewhere = [url[:80] for url in requests if not url.startswith("data:") and url != page.url]
    assert not elsewhere, f"{where}: the page asks for {elsewhere}"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    context.close()
    return background


def _check_verdict(page: Any, size: tuple[int, int], where: str) -> None:
    """The whole verdict on the first screen of a desktop; on a phone at least its sentence."""
    box = page.locator("#verdict" if size == DESKTOP else "#headline").bounding_box()
    assert box is not None, f"{where}: no verdict"
    assert min(box["width"], box["height"]) > 0, f"{where}: the verdict is not visible"
    assert min(box["x"], box["y"]) >= 0, f"{where}: the verdict begins at {box['x']}, {box['y']}"
    assert box["x"] + box["width"] <= size[0], f"{where}: the verdict is wider than the screen"
    assert box["y"] + box["height"] <= size[1], f"{where}: the verdict ends at {box['y'] + box['height']:.0f}"
