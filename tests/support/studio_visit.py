"""A visit of the studio's page in a headless browser, with everything that the browser was asked for or told."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from studio_client import Client

# Reading a canvas fails, as it does not fail but lie in browsers that protect from fingerprinting.
UNREADABLE = """
const refuse = () => { throw new Error("a canvas was read"); };
for (const name of ["toBlob", "toDataURL", "captureStream"]) HTMLCanvasElement.prototype[name] = refuse;
for (const kind of [CanvasRenderingContext2D, OffscreenCanvasRenderingContext2D]) kind.prototype.getImageData = refuse;
for (const name of ["convertToBlob", "transferToImageBitmap"]) OffscreenCanvas.prototype[name] = refuse;
for (const kind of [WebGLRenderingContext, WebGL2RenderingContext]) kind.prototype.readPixels = refuse;
window.createImageBitmap = refuse;
window.violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective));
"""


PATIENCE = 180_000  # ms: other tests may have the processor


class Visit:
    """A page of the studio, and everything that its browser was asked for or told."""

    def __init__(self, context: Any, client: Client):
        self.client, self.problems, self.requests, self.draws = client, [], [], []
        context.add_init_script(UNREADABLE)
        self.page = page = context.new_page()
        page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._asked)
        self.open()

    def _asked(self, request: Any) -> None:
        self.requests.append(request.url)
        if request.method == "POST" and request.url.endswith("/api/draws"):
            head, _, packed = request.post_data_buffer.partition(b"\n")
            head, raw = json.loads(head), gzip.decompress(packed)
            height, width = head["size"]
            kind = {1: "<u1", 2: "<u2"}[len(raw) // (height * width)]
            self.draws.append((head, np.frombuffer(raw, kind).reshape(height, width)))

    def open(self) -> None:
        self.page.goto(f"http://{self.client.host}/#{self.client.token}")
        self.page.locator("body[data-ready]").wait_for()

    def sampled(self, count: int) -> None:
        """Wait until all images of the newest draw are there."""
        self.page.locator("#grid .cell:not(.waiting) img").nth(count - 1).wait_for()
        self.page.locator("#progress").wait_for(state="hidden")

    def paint(self, label: int, *points: tuple[float, float]) -> None:
        """Paint through places of the mask, as parts of its size."""
        self.page.click(f'#classes [data-class="{label}"]')
        box = self.page.locator("#canvas").bounding_box()
        side = min(box["width"], box["height"]) - 28
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse = self.page.mouse
        places = [(x + (u - 0.5) * side, y + (v - 0.5) * side) for u, v in points]
        mouse.move(*places[0])
        mouse.down()
        for place in places[1:]:
            mouse.move(*place)
        mouse.up()

    def check(self) -> None:
        """No message, no request beyond the server, no violation of the policy, no name that became HTML."""
        assert not self.problems
        here = f"http://{self.client.host}/"
        assert [url for url in self.requests if not url.startswith((here, f"blob:{here}"))] == []
        assert self.page.evaluate("violations") == []
        assert "broken" not in self.page.title()
        assert self.page.locator('img[src="x"], body script').count() == 0


@contextmanager
def visit(browser: Any, client: Client, size: tuple[int, int] = (1280, 800), scheme: str = "light") -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    try:
        yield Visit(context, client)
    finally:
        context.close()


def wait_for(page: Any, true: Callable[[], bool]) -> None:
    for _ in range(PATIENCE // 50):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come")
