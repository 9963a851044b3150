"""What the pointer paints in the studio's page is what lies under it, however the page is zoomed."""

from __future__ import annotations

import io
import math

import label_oracle as oracle
import numpy as np
import pytest
from browser import chromium
from PIL import Image

from scripts.measure.page_browser import open_modules

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 13, 9  # of the map
PROBLEMS: list[str] = []  # what a page threw
BOX = {"left": 37.5, "top": 21.25, "width": 403, "height": 301}  # of the canvas, in CSS pixels

# A map of class 1 in a canvas, with the tools of the page; class 2 is painted.
OPEN = """async ({box, width, height, zoom}) => {
  document.documentElement.style.zoom = zoom;
  document.body.style.margin = 0;
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  document.body.append(canvas);
  const size = {left: box.left, top: box.top, width: box.width, height: box.height};
  for (const [key, value] of Object.entries(size)) canvas.style[key] = value + "px";
  Object.assign(canvas.style, {position: "absolute", touchAction: "none"});
  const [{Work}, {View}, {Floating}, {Tools}, {settings}] = await Promise.all(
    ["work", "view", "floating", "tools", "settings"].map(name => import(`/static/${name}.js`)));
  const classes = ["#000000", "#ff0000", "#0000ff"].map((color, index) => ({index, color, name: "c" + index}));
  const work = new Work({size: [height, width], label_type: "u8", classes, null: null, background: 0});
  work.map.load(new Uint8Array(width * height).fill(1), width, height);
  work.map.about = {first: work.map.data.slice()};
  work.changed();
  work.choose(2);
  const view = new View(canvas, work);
  view.mode = "labels";
  const tools = new Tools(work, view, new Floating(work, view, () => {}));
  Object.assign(settings, {size: 1, tool: "brush"});
  view._resize();
  view.fit();
  Object.assign(window, {work, view, tools, settings});
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def opened(browser, zoom: float, ratio: float, css_zoom: float = 1):
    """A page at a browser's zoom: that many device pixels for a CSS pixel, and a window of fewer CSS pixels."""
    viewport = {"width": round(900 / zoom), "height": round(700 / zoom)}
    page = open_modules(browser, viewport=viewport, device_scale_factor=ratio * zoom)
    page.on("pageerror", lambda error: PROBLEMS.append(str(error)))
    page.evaluate(OPEN, {"box": BOX, "width": WIDTH, "height": HEIGHT, "zoom": css_zoom})
    return page


def close(page) -> None:
    page.context.close()
    assert PROBLEMS == []


def shot(page) -> np.ndarray:
    page.mouse.move(0, 0)
    page.evaluate("() => { view.pointer = null; view.paint(); }")
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)


def red(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 0] > 200) & (picture[..., 1] < 60)


def labels(page) -> np.ndarray:
    return np.array(page.evaluate("() => [...work.map.data]")).reshape(HEIGHT, WIDTH)


class Screen:
    """Where the map is on the screen, as a screenshot shows it."""

    def __init__(self, page, scale: float):
        self.page, self.scale = page, scale
        ys, xs = np.nonzero(red(shot(page)))
        self.left, self.top = xs.min(), ys.min()
        self.pixel = (np.ptp(xs) + 1) / WIDTH, (np.ptp(ys) + 1) / HEIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point of the map for the mouse."""
        return (self.left + x * self.pixel[0]) / self.scale, (self.top + y * self.pixel[1]) / self.scale

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def drag(self, points: list[tuple[float, float]]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point))
        self.page.mouse.up()


CASES = [(zoom, ratio, 1) for zoom in (0.8, 1, 1.25, 1.5) for ratio in (1, 2)] + [
    (1, 1, 0.8),
    (1, 2, 1.25),
    (1, 1, 1.5),
]


@pytest.mark.parametrize(("zoom", "ratio", "css_zoom"), CASES)
def test_the_pixel_under_the_pointer_is_painted(browser, zoom, ratio, css_zoom):
    page = opened(browser, zoom, ratio, css_zoom)
    screen = Screen(page, zoom * ratio)
    expected = np.ones((HEIGHT, WIDTH), int)
    corners = [(0.2, 0.2), (WIDTH - 0.2, 0.2), (0.2, HEIGHT - 0.2), (WIDTH - 0.2, HEIGHT - 0.2), (5.8, 3.2), (6.2, 4.8)]
    for x, y in corners:
        screen.click(x, y)
        expected[math.floor(y), math.floor(x)] = 2
    for x, y in ((-0.4, 4), (WIDTH + 0.4, 4), (4, -0.4), (4, HEIGHT + 0.4)):  # beside the map
        screen.click(x, y)
    assert np.array_equal(labels(page), expected)
    # The screenshot shows it there, too.
    seen = red(shot(page))
    for (row, column), label in np.ndenumerate(expected):
        x, y = (round(value * screen.scale) for value in screen.at(column + 0.5, row + 0.5))
        assert seen[y, x] == (label == 1)

    # A stroke that comes from outside and leaves again is that of the disc, cut off at the border.
    path = [(-0.4, 2.4), (3.4, 6.3), (9.7, 1.2), (WIDTH + 1.3, 7.6)]
    page.evaluate("() => { settings.size = 3; }")
    screen.drag(path)
    expected[oracle.disc_stroke(expected.shape, [list(point) for point in path], 3)] = 2
    assert np.array_equal(labels(page), expected)
    close(page)


def test_zoom_and_pan_keep_the_pixel_under_the_pointer(browser):
    page = opened(browser, 1, 1)
    screen = Screen(page, 1)
    x, y = screen.at(4.5, 3.5)
    page.mouse.move(x, y)
    for delta in (-300, -200, 150):
        page.mouse.wheel(0, delta)
    page.mouse.click(x, y)
    page.evaluate("() => { tools.space = true; }")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 41, y - 23)
    page.mouse.up()
    page.evaluate("() => { tools.space = false; settings.tool = 'eraser'; }")
    page.mouse.click(x + 41, y - 23)
    expected = np.ones((HEIGHT, WIDTH), int)
    expected[3, 4] = 0
    assert page.evaluate("() => view.zoom") > 31
    assert page.evaluate("() => work.map.past.length") == 3  # the map, the stroke, the eraser on the same pixel
    assert np.array_equal(labels(page), expected)
    close(page)


def test_tools_by_mouse_and_keyboard(browser):
    page = opened(browser, 1, 1)
    screen = Screen(page, 1)
    expected = np.ones((HEIGHT, WIDTH), int)

    page.evaluate("() => { settings.tool = 'box'; }")
    screen.drag([(2.5, 1.5), (-3, 4), (5.5, 3.5)])
    expected[1:4, 2:6] = 2
    assert np.array_equal(labels(page), expected)

    page.evaluate("() => { settings.tool = 'lasso'; }")
    loop = [(8, 2), (12, 2), (12, 7), (8, 7)]
    screen.drag(loop)
    expected[oracle.enclosed(expected.shape, [list(point) for point in loop])] = 2
    assert np.array_equal(labels(page), expected)

    # A part is lifted and dropped two pixels lower; the map has it when it is put down.
    page.evaluate("() => { settings.tool = 'move'; }")
    screen.drag([(3.5, 2.5), (4.5, 4.5)])
    assert (labels(page)[1:4, 2:6] == 1).all()
    page.keyboard.press("Enter")
    expected[1:4, 2:6] = 1
    expected[3:6, 3:7] = 2
    assert np.array_equal(labels(page), expected)

    page.evaluate("() => { settings.tool = 'brush'; settings.size = 1; }")
    page.mouse.move(*screen.at(0.5, 0.5))
    page.keyboard.press("ArrowRight")  # the view was clicked at: arrows are not for the brush
    page.keyboard.press("Enter")
    assert np.array_equal(labels(page), expected)
    page.evaluate("() => { view.canvas.blur(); view.canvas.focus(); }")
    page.mouse.move(*screen.at(0.5, 0.5))
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expected[1, 1] = 2
    assert np.array_equal(labels(page), expected)

    page.mouse.move(*screen.at(6.5, 7.5))
    page.mouse.down()
    page.keyboard.down("Alt")
    page.mouse.up()
    expected[7, 6] = 2
    page.mouse.click(*screen.at(1.5, 1.5))  # Alt erases
    page.keyboard.up("Alt")
    expected[1, 1] = 0
    assert np.array_equal(labels(page), expected)
    close(page)


def test_a_mask_that_comes_in_the_midst_of_a_stroke_ends_it(browser):
    page = opened(browser, 1, 1)
    screen = Screen(page, 1)
    page.mouse.move(*screen.at(2.5, 2.5))
    page.mouse.down()
    page.mouse.move(*screen.at(4.5, 2.5))
    page.evaluate("""() => {
      work.map.load(new Uint8Array(work.map.data.length), work.map.width, work.map.height);
      work.map.about = {first: work.map.data.slice()};
      work.changed();
    }""")
    page.mouse.move(*screen.at(6.5, 6.5))
    page.mouse.up()
    assert not labels(page).any()
    page.mouse.click(*screen.at(1.5, 1.5))
    assert labels(page).sum() == 2
    close(page)


def test_a_second_finger_takes_back_the_stroke_and_zooms(browser):
    page = opened(browser, 1, 1)
    result = page.evaluate("""() => {
      const {canvas} = view, box = canvas.getBoundingClientRect();
      canvas.setPointerCapture = () => {};
      const send = (type, id, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
        pointerId: id, pointerType: "touch", clientX: box.left + x, clientY: box.top + y, bubbles: true}));
      const before = view.zoom;
      send("pointerdown", 1, 180, 150);
      send("pointermove", 1, 190, 150);
      const painted = work.map.data.filter(label => label === 2).length;
      send("pointerdown", 2, 240, 150);
      send("pointermove", 2, 290, 150);
      send("pointerup", 2, 290, 150);
      send("pointerup", 1, 190, 150);
      const pinched = view.zoom / before;
      send("pointerdown", 3, 200, 150);
      send("pointerup", 3, 200, 150);
      return {painted, pinched, left: work.map.data.filter(label => label === 2).length};
    }""")
    assert result["painted"] > 0
    assert result["pinched"] == pytest.approx(2)
    assert result["left"] == 1  # the third finger paints again
    close(page)
