// What can be done to a label map (labels.js), each one step of undo.

import { capsule, corner, polygon, rectangle, snap } from "./raster.js";
import { boxes, flood, holes, pinholes, surrounding } from "./regions.js";
import { covered, pieceOf } from "./pieces.js";

export const PINHOLE = 4; // pixels: a region of fewer is shown as one

/** A stroke of a disc, `diameter` pixels wide: a label, or with `source` the labels of another map of this size. */
export class Stroke {
  constructor(map, diameter, label, source = null) {
    Object.assign(this, { map, diameter, label, source, last: null });
    map.begin();
  }

  /** Go on to (x, y), in pixels of the map; outside of it, too. */
  to(x, y) {
    const { map, diameter } = this;
    const here = [snap(x, diameter), snap(y, diameter)],
      from = this.last ?? here;
    this.last = here;
    capsule(...from, ...here, diameter, map.width, map.height, (row, left, right) => {
      if (this.source) map.copy(row, left, right, this.source);
      else map.span(row, left, right, this.label);
    });
  }

  end() {
    return this.map.commit();
  }
}

function edit(map, change) {
  map.begin();
  change();
  return map.commit();
}

/** A whole stroke through `points` [x, y]. */
export function stroke(map, points, diameter, label, source = null) {
  const made = new Stroke(map, diameter, label, source);
  for (const [x, y] of points) made.to(x, y);
  return made.end();
}

function write(map, region, label) {
  for (let row = 0; row < region.height; row++) {
    const y = region.y + row;
    if (y < 0 || y >= map.height) continue;
    for (let column = 0; column < region.width; column++) {
      const x = region.x + column;
      if (x < 0 || x >= map.width || !region.mask[row * region.width + column]) continue;
      let to = column + 1;
      while (to < region.width && region.mask[row * region.width + to]) to++;
      map.span(y, x, Math.min(region.x + to, map.width), label);
      column = to - 1;
    }
  }
}

const within = (map, x, y) => x >= 0 && y >= 0 && x < map.width && y < map.height;

/** Give the region at pixel (x, y) a label. */
export function fill(map, x, y, label) {
  if (!within(map, x, y) || map.data[y * map.width + x] === label) return false;
  return edit(map, () => write(map, flood(map, x, y), label));
}

/** Give what a closed line through `points` [x, y] encloses a label. */
export function lasso(map, points, label) {
  const corners = points.map(([x, y]) => [corner(x), corner(y)]);
  return edit(map, () => polygon(corners, map.width, map.height, (y, from, to) => map.span(y, from, to, label)));
}

/** Give the box with the pixels (ax, ay) and (bx, by) in opposite corners a label. */
export function box(map, ax, ay, bx, by, label) {
  return edit(map, () =>
    rectangle(ax, ay, bx, by, map.width, map.height, (y, from, to) => map.span(y, from, to, label)),
  );
}

/** Replace every part by its box, the largest first; parts of the labels `left` stay. */
export function toBoxes(map, left) {
  const found = boxes(map, left);
  return edit(map, () => {
    for (const { x, y, width, height, label } of found) {
      for (let row = y; row < y + height; row++) map.span(row, x, x + width, label);
    }
  });
}

function relabel(map, pixels, label) {
  for (const at of pixels) {
    const x = at % map.width,
      y = (at - x) / map.width;
    map.span(y, x, x + 1, label);
  }
}

/** Fill the holes of a class: parts of the background that it alone surrounds. */
export function fillHoles(map, label, background) {
  const pixels = holes(map, label, background);
  return edit(map, () => relabel(map, pixels, label));
}

/** Give each pinhole that is not in `reference` the label around it. */
export function fillPinholes(map, reference) {
  const found = pinholes(map, PINHOLE, reference);
  return edit(map, () => {
    for (const { pixels, label } of found) relabel(map, pixels, label);
  });
}

/** Lift the region at pixel (x, y) out of the map, which begins a stroke; what surrounds it is left behind. */
export function lift(map, x, y, otherwise) {
  if (!within(map, x, y)) return null;
  const region = flood(map, x, y);
  map.begin();
  write(map, region, surrounding(map, region, otherwise));
  return pieceOf(region);
}

/** Put a piece down, of the mask of the training pair `pair` or of the map's own, which ends the stroke that lifting it
 * began, or is one of its own. */
export function drop(map, piece, pair = null) {
  if (!map.editing) map.begin();
  write(map, covered(piece), piece.label);
  return map.commit(pair === null || map.parts.includes(pair) ? map.parts : [...map.parts, pair]);
}

/** Give the region at pixel (x, y) the label around it. */
export function remove(map, x, y, otherwise) {
  if (!lift(map, x, y, otherwise)) return false;
  return map.commit();
}
