"""Take the pictures of the studio in the README, light and dark, on the results of `demo`.

    python -m scripts.measure.studio_pictures runs/demo [--out assets] [--pair 1]

Needs playwright and Chromium. What is accepted goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guided_diffusion.config.demo import demo_studio
from guided_diffusion.config.load import load_config
from guided_diffusion.runtime.errors import DataError
from scripts.measure.page_browser import headless

SIZE = {"width": 1280, "height": 800}
MOULD, STEPS = 3, 20
STROKE = [(0.36, 0.40), (0.44, 0.34), (0.53, 0.36), (0.60, 0.42)]
"""Where the mould is painted, as parts of the canvas' shorter side about its middle."""
PATIENCE = 300_000  # ms for four images on a busy CPU


@contextmanager
def studio(demo: Path, results: Path) -> Iterator[str]:
    """Yield the address of a studio on the results of `demo`, in a process of its own."""
    own = {"results_path": str(results / "accepted"), "steps": STEPS, "open_browser": False}
    values = {**demo_studio(load_config("demo", {"output_dir": str(demo)})), **own}
    config = results / "studio.json"
    config.write_text(json.dumps(values))
    program = "import sys; from guided_diffusion.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "studio", "-c", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found.group()
                break
        else:
            raise DataError.of(demo, "has no models that the studio can open", "run demo, and see what it says here")
    finally:
        process.terminate()
        process.wait(30)


def painted(page: Any, address: str, pair: int) -> None:
    """Open the page, paint mould on a lemon, and wait for four whole images of the new mask."""
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    page.click("#guide-close")
    page.click(f'#strip [data-pair="train/{pair}"]')
    page.uncheck("#keep")
    page.uncheck("#auto")
    page.click(f'#classes [data-class="{MOULD}"]')
    box = page.locator("#canvas").bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    places = [(left + x * side, top + y * side) for x, y in STROKE]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    page.click("#sample")
    page.locator("#grid .cell:not(.waiting) img").nth(3).wait_for()
    page.locator("#progress").wait_for(state="hidden")
    page.locator("#grid .cell").nth(1).click()
    page.locator("#agreement tr.mean").wait_for()
    page.mouse.move(*places[-1])
    page.wait_for_timeout(1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="output_dir of demo")
    parser.add_argument("--out", type=Path, default=Path("assets"))
    parser.add_argument("--pair", type=int, default=1, help="number of the training mask")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        studio(arguments.demo, Path(folder)) as address,
        headless() as browser,
    ):
        for scheme in ("light", "dark"):
            page = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()
            page.set_default_timeout(PATIENCE)
            painted(page, address, arguments.pair)
            path = arguments.out / f"studio_{scheme}.png"
            page.screenshot(path=path)
            print(path.absolute())
            page.context.close()


if __name__ == "__main__":
    main()
