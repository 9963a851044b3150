"""Labels in the studio's page: every edit, pixel by pixel, against an oracle in numpy."""

from __future__ import annotations

import base64
from collections import Counter
from itertools import pairwise
from typing import Any

import label_oracle as oracle
import numpy as np
import pytest
from browser import chromium
from scipy import ndimage

from scripts.measure.page_browser import open_modules

pytestmark = pytest.mark.slow

SEQUENCES, LENGTH = 110, 12  # of each type: 220 sequences
TYPES = {"u8": np.uint8, "u16": np.dtype("<u2")}
CLASSES = {"u8": [0, 1, 2, 3, 254], "u16": [0, 1, 300, 40_000, 65_535]}

# Runs sequences of edits; for each the bytes of the labels after every edit, and whether all undone is the start.
RUN = """async ({type, sequences}) => {
  const {LabelMap, fromBytes, toBytes} = await import("/static/labels.js");
  const edits = await import("/static/edits.js");
  const decode = text => fromBytes(type, Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const encode = data => {
    const bytes = toBytes(data);
    let text = "";
    for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
    return btoa(text);
  };
  const same = (a, b) => a.length === b.length && a.every((label, i) => label === b[i]);
  return sequences.map(({width, height, start, steps}) => {
    const map = new LabelMap(type, width, height), first = decode(start);
    map.load(first, width, height);
    map.forget();
    const states = [], areas = [];
    for (const {name, ...given} of steps) {
      const before = map.data.slice();
      map.take();
      if (name === "undo") map.undo();
      else if (name === "redo") map.redo();
      else if (name === "load") map.load(decode(given.data), given.width, given.height);
      else if (name === "stroke") edits.stroke(map, given.points, given.diameter, given.label);
      else if (name === "restore") edits.stroke(map, given.points, given.diameter, 0, first);
      else if (name === "fill") edits.fill(map, given.x, given.y, given.label);
      else if (name === "lasso") edits.lasso(map, given.points, given.label);
      else if (name === "box") edits.box(map, given.ax, given.ay, given.bx, given.by, given.label);
      else if (name === "boxes") edits.toBoxes(map, [0]);
      else if (name === "holes") edits.fillHoles(map, given.label, 0);
      else if (name === "pinholes") edits.fillPinholes(map, first);
      else if (name === "remove") edits.remove(map, given.x, given.y, 0);
      else if (name === "move") {
        const piece = edits.lift(map, given.x, given.y, 0);
        const {scale, angle, flipX, flipY} = given;
        edits.drop(map, {...piece, x: piece.x + given.dx, y: piece.y + given.dy, scale, angle, flipX, flipY});
      } else throw new Error(name);
      const fresh = map.take();
      for (let at = 0; at < map.data.length && map.data.length === before.length; at++) {
        if (map.data[at] === before[at]) continue;
        const x = at % map.width, y = (at - x) / map.width;
        const has = rect => x >= rect.left && x < rect.right && y >= rect.top && y < rect.bottom;
        if (!fresh.some(has)) throw new Error("a change that the view is not told of");
      }
      states.push(encode(map.data));
    }
    while (map.undo());
    const undone = same(map.data, first);
    while (map.redo());
    const last = states.at(-1) === encode(map.data) || steps.some(({name}) => name === "undo");
    return {states, undone, last};
  });
}"""


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        yield open_modules(browser)


def encode(labels: np.ndarray) -> str:
    return base64.b64encode(labels.tobytes()).decode()


def blobs(rng: np.random.Generator, shape: tuple[int, int], type_: str) -> np.ndarray:
    """Labels with parts of all sizes, single pixels among them."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.4, 2.5))
    classes = np.array(CLASSES[type_])
    return classes[np.digitize(field, np.quantile(field, [0.5, 0.7, 0.85, 0.95]))].astype(TYPES[type_])


def random_step(rng: np.random.Generator, labels: np.ndarray, type_: str) -> dict[str, Any]:
    """An edit of a map, places beyond its border included."""
    height, width = labels.shape
    names = ["stroke", "restore", "fill", "lasso", "box", "boxes", "holes", "pinholes", "remove", "move", "move"]
    name = str(rng.choice([*names, "stroke", "stroke", "undo", "undo", "redo", "load"]))
    x, y, label = int(rng.integers(width)), int(rng.integers(height)), int(rng.choice(CLASSES[type_]))
    points = (rng.uniform(-0.3, 1.3, (int(rng.integers(1, 7)), 2)) * [width, height]).tolist()
    if rng.random() < 0.2:
        points = np.floor(np.array(points) * 2).tolist()  # on corners, far outside
    if name in ("stroke", "restore"):
        return {"name": name, "points": points, "diameter": int(rng.integers(1, 12)), "label": label}
    if name == "lasso":
        return {"name": name, "points": points, "label": label}
    if name == "box":
        ax, ay, bx, by = (int(value) for value in rng.integers(-6, 36, 4))
        return {"name": name, "ax": ax, "ay": ay, "bx": bx, "by": by, "label": label}
    if name == "load":
        other = blobs(rng, (int(rng.integers(5, 30)), int(rng.integers(5, 30))), type_)
        return {"name": name, "data": encode(other), "height": other.shape[0], "width": other.shape[1]}
    return {
        "name": name,
        "x": x,
        "y": y,
        "label": label,
        "dx": int(rng.integers(-20, 20)),
        "dy": int(rng.integers(-20, 20)),
        "scale": float(rng.choice([1, 1, 0.5, 2, 0.1, round(rng.uniform(0.3, 3), 3)])),
        "angle": int(rng.choice([0, 90, 180, 270, -90, int(rng.integers(-180, 180))])),
        "flipX": bool(rng.random() < 0.5),
        "flipY": bool(rng.random() < 0.5),
    }


def expected(labels: np.ndarray, step: dict[str, Any], first: np.ndarray, type_: str) -> np.ndarray:
    """What an edit other than undo and redo makes of labels."""
    name, result = step["name"], labels.copy()
    if name == "load":
        return np.frombuffer(base64.b64decode(step["data"]), TYPES[type_]).reshape(step["height"], step["width"])
    if name == "stroke":
        result[oracle.disc_stroke(labels.shape, step["points"], step["diameter"])] = step["label"]
    elif name == "restore":
        covered = oracle.disc_stroke(labels.shape, step["points"], step["diameter"])
        result[covered] = first[covered]
    elif name == "fill":
        result[oracle.region(labels, step["x"], step["y"])] = step["label"]
    elif name == "lasso":
        result[oracle.enclosed(labels.shape, step["points"])] = step["label"]
    elif name == "box":
        top, bottom = sorted((step["ay"], step["by"]))
        left, right = sorted((step["ax"], step["bx"]))
        result[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = step["label"]
    elif name == "boxes":
        result = oracle.boxed(labels, [0])
    elif name == "holes":
        result = oracle.holes_filled(labels, step["label"], 0)
    elif name == "pinholes":
        result = oracle.pinholes_filled(labels, first)
    elif name == "remove":
        mask = oracle.region(labels, step["x"], step["y"])
        result[mask] = oracle.around(labels, mask, 0)
    else:
        result = oracle.moved(labels, step["x"], step["y"], 0, step)
    return result


def random_sequence(rng: np.random.Generator, type_: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """A sequence of edits and the labels after each, undo and redo by whole copies."""
    first = blobs(rng, (int(rng.integers(6, 26)), int(rng.integers(6, 30))), type_)
    past, future, now = [], [], first
    steps, states = [], []
    while len(steps) < LENGTH:
        step = random_step(rng, now, type_)
        if step["name"] in ("restore", "pinholes") and now.shape != first.shape:
            continue  # there is nothing to compare with
        if step["name"] == "undo":
            if past:
                future.append(now)
                now = past.pop()
        elif step["name"] == "redo":
            if future:
                past.append(now)
                now = future.pop()
        else:
            result = expected(now, step, first, type_)
            if step["name"] == "load" or not np.array_equal(result, now):
                past.append(now)
                future, now = [], result
        steps.append(step)
        states.append(now)
    start = {"width": first.shape[1], "height": first.shape[0], "start": encode(first)}
    return {**start, "steps": steps}, states


@pytest.mark.parametrize("type_", TYPES)
def test_random_edits_equal_the_oracle(page, type_):
    rng = np.random.default_rng(7)
    sequences, states = zip(*(random_sequence(rng, type_) for _ in range(SEQUENCES)), strict=True)
    results = page.evaluate(RUN, {"type": type_, "sequences": list(sequences)})
    for number, (result, wanted) in enumerate(zip(results, states, strict=True)):
        for position, (found, labels) in enumerate(zip(result["states"], wanted, strict=True)):
            step = sequences[number]["steps"][position]
            assert found == encode(labels), f"sequence {number}, edit {position}: {step}"
        assert result["undone"], f"sequence {number}: all undone is not the start"
        assert result["last"], f"sequence {number}: all done again is not the end"

    # The edits are of all kinds, and most of them change something.
    counts = Counter(step["name"] for sequence in sequences for step in sequence["steps"])
    assert len(counts) == 13
    assert min(counts.values()) >= 30
    changed = sum(not np.array_equal(a, b) for wanted in states for a, b in pairwise(wanted))
    assert changed > SEQUENCES * LENGTH / 2


@pytest.mark.parametrize("type_", TYPES)
def test_loaded_labels_are_saved_unchanged(page, type_):
    labels = np.random.default_rng(3).integers(0, np.iinfo(TYPES[type_]).max + 1, (37, 29)).astype(TYPES[type_])
    saved = page.evaluate(
        """async ({type, text}) => {
          const {LabelMap, fromBytes, toBytes} = await import("/static/labels.js");
          const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
          const map = new LabelMap(type, 1, 1);
          map.load(fromBytes(type, bytes.buffer), 29, 37);
          return [...toBytes(map.data)];
        }""",
        {"type": type_, "text": encode(labels)},
    )
    assert bytes(saved) == labels.tobytes()


def test_undo_keeps_within_its_limit_and_forgets_the_oldest(page):
    counts = page.evaluate("""async () => {
      const {LabelMap, CAP} = await import("/static/labels.js");
      const {stroke, box} = await import("/static/edits.js");
      const map = new LabelMap("u8", 100, 100, 0, 3000);
      for (let i = 1; i <= 50; i++) stroke(map, [[i + 0.5, 50.5]], 9, i);
      const small = map.past.length, bytes = map.bytes;
      box(map, 0, 0, 99, 99, 7);
      const large = map.past.length;
      map.undo();
      return {small, bytes, large, restored: map.data[50 * 100 + 50], cap: CAP};
    }""")
    assert counts["cap"] == 64 * 2**20
    assert 30 <= counts["small"] < 50
    assert counts["bytes"] <= 3000
    assert counts["large"] == 1  # larger than the limit alone: the last stroke can always be undone
    assert counts["restored"] == 50


def test_a_cancelled_stroke_leaves_nothing(page):
    result = page.evaluate("""async () => {
      const {LabelMap} = await import("/static/labels.js");
      const {Stroke, lift} = await import("/static/edits.js");
      const map = new LabelMap("u8", 20, 20);
      const stroke = new Stroke(map, 5, 3);
      stroke.to(4, 4); stroke.to(25, 12);
      const painted = map.data.filter(label => label === 3).length;
      map.cancel();
      lift(map, 3, 3, 0);
      map.cancel();
      return {painted, left: map.data.filter(label => label).length, steps: map.past.length};
    }""")
    assert result["painted"] > 30
    assert (result["left"], result["steps"]) == (0, 0)


def test_what_parts_are_of_goes_with_undo(page):
    """The pairs whose parts lie on a map are in the lineage of what is drawn of it."""
    states = page.evaluate("""async () => {
      const {LabelMap} = await import("/static/labels.js");
      const {drop, stroke} = await import("/static/edits.js");
      const {pieceAt} = await import("/static/pieces.js");
      const map = new LabelMap("u8", 20, 20), states = [];
      const put = (x, pair) => drop(map, pieceAt(new Uint8Array(9).fill(1), 3, 3, 1, x, 5), pair);
      const state = () => states.push(map.parts);
      put(5, 4), put(12, 7), put(5, 4), state();
      put(-30, 8), state(); // beyond the border
      stroke(map, [[2, 2]], 1, 3), state();
      map.undo(), map.undo(), state();
      map.redo(), state();
      map.load(new Uint8Array(400), 20, 20), state();
      map.undo(), map.undo(), map.undo(), state();
      return states;
    }""")
    assert states == [[4, 7], [4, 7], [4, 7], [4], [4, 7], [], []]
