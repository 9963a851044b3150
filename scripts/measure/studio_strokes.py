"""Measure what painting costs in the studio's page, in headless Chromium; print a table in ms.

    python -m scripts.measure.studio_strokes [--sizes 256 1024 2048] [--repeats 20]

Every figure is the median of the repeats. The brush is 40 px wide; what it changes is colored for the canvas. A frame
draws the view, 900 x 700 px, anew; the page does so at most once for each picture of the screen.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.measure.page_browser import headless, open_modules

COLUMNS = {
    "move": "12 px of a stroke",
    "long": "a stroke across",
    "commit": "its end",
    "undo": "undo",
    "fill": "fill",
    "pinholes": "find specks",
    "recolor": "color all",
    "frame": "a frame",
}

MEASURE = """async ({size, repeats}) => {
  const [{LabelMap}, {Stroke, fill}, {pinholes}, {View}] = await Promise.all(
    ["labels", "edits", "regions", "view"].map(name => import(`/static/${name}.js`)));
  const canvas = document.createElement("canvas");
  document.body.replaceChildren(canvas);
  Object.assign(canvas.style, {display: "block", width: "900px", height: "700px"});
  const color = index => "#" + (index * 1864135).toString(16).padStart(6, "0");
  const classes = Array.from({length: 8}, (_, index) => ({index, name: "c" + index, color: color(index)}));
  const map = new LabelMap("u8", size, size);
  // Blocks of eight classes, so that there are parts to be found.
  map.load(map.data.map((_, at) => (at % size >> 5) * 3 + (Math.floor(at / size) >> 5) & 7), size, size);
  const start = map.data.slice();
  const view = new View(canvas, {map, run: {classes, label_type: "u8", null: null}, background: 0});
  view.mode = "labels";
  view._resize();
  view.fit();
  view.paint();
  const times = {};
  const timed = (name, action) => {
    const before = performance.now();
    const result = action();
    (times[name] ??= []).push(performance.now() - before);
    return result;
  };
  for (let i = 0; i < repeats; i++) {
    const stroke = new Stroke(map, 40, 1 + i % 7), y = size * (i + 1) / (repeats + 2);
    const change = (name, action) => timed(name, () => { action(); view._update(); });
    stroke.to(0, y);
    view._update();
    // The clock of a browser has steps of 0.1 ms.
    timed("move", () => { for (let x = 12; x <= 120; x += 12) { stroke.to(x, y); view._update(); } });
    times.move[i] /= 10;
    change("long", () => stroke.to(size, size - y));
    change("commit", () => stroke.end());
    timed("pinholes", () => pinholes(map, 4, start));
    change("undo", () => map.undo());
    change("fill", () => fill(map, 1, 1, 1 + i % 7));
    change("recolor", () => { view.colors = null; });
    timed("frame", () => view.paint());
  }
  const median = all => all.sort((a, b) => a - b)[all.length >> 1];
  return Object.fromEntries(Object.entries(times).map(([name, all]) => [name, median(all)]));
}"""


def measure(sizes: Sequence[int], repeats: int) -> dict[int, Mapping[str, float]]:
    """Return size of the map -> median ms of each kind of work."""
    with headless() as browser:
        page = open_modules(browser)
        return {size: page.evaluate(MEASURE, {"size": size, "repeats": repeats}) for size in sizes}


def table(figures: Mapping[int, Mapping[str, float]]) -> str:
    """Return the figures as a table of Markdown."""
    rows: list[list[Any]] = [["map", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    rows += [[f"{size} px", *(f"{times[name]:.2f}" for name in COLUMNS)] for size, times in figures.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    print(table(measure(arguments.sizes, arguments.repeats)))


if __name__ == "__main__":
    main()
