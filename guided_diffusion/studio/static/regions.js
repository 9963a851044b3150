// Connected regions of a label map: 4-connected pixels of one label.
//
// A grid is {data, width, height}, data row by row. A region is {x, y, width, height, area, label, mask}: its box, and
// which pixels of the box belong to it.

const STEPS = [
  [-1, 0],
  [1, 0],
  [0, -1],
  [0, 1],
];

// Collect the region of the pixel `first` in `queue`, marking its pixels by `mark` in `marks`, which has `free` where
// nothing was: {area, box}. The queue has room for the whole grid.
function collect({ data, width, height }, first, queue, marks, free, mark) {
  const label = data[first];
  let count = 1,
    left = width,
    top = height,
    right = -1,
    bottom = -1;
  queue[0] = first;
  marks[first] = mark;
  for (let next = 0; next < count; next++) {
    const at = queue[next],
      y = Math.floor(at / width),
      x = at - y * width;
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < top) top = y;
    if (y > bottom) bottom = y;
    if (x > 0 && marks[at - 1] === free && data[at - 1] === label) {
      marks[at - 1] = mark;
      queue[count++] = at - 1;
    }
    if (x < width - 1 && marks[at + 1] === free && data[at + 1] === label) {
      marks[at + 1] = mark;
      queue[count++] = at + 1;
    }
    if (y > 0 && marks[at - width] === free && data[at - width] === label) {
      marks[at - width] = mark;
      queue[count++] = at - width;
    }
    if (y < height - 1 && marks[at + width] === free && data[at + width] === label) {
      marks[at + width] = mark;
      queue[count++] = at + width;
    }
  }
  return { label, area: count, first, left, top, right, bottom };
}

/** Number the regions of a grid in the order of their first pixels: {ids, list of {label, area, first, box}}. */
export function components(grid) {
  const ids = new Int32Array(grid.data.length).fill(-1),
    queue = new Int32Array(grid.data.length),
    list = [];
  for (let first = 0; first < ids.length; first++) {
    if (ids[first] < 0) list.push(collect(grid, first, queue, ids, -1, list.length));
  }
  return { ids, list };
}

/** Return the region that has the pixel (x, y). */
export function flood(grid, x, y) {
  const { width } = grid,
    queue = new Int32Array(grid.data.length);
  const found = collect(grid, y * width + x, queue, new Uint8Array(grid.data.length), 0, 1);
  const { left, top, right, bottom, area, label } = found;
  const box = { x: left, y: top, width: right - left + 1, height: bottom - top + 1, area, label };
  box.mask = new Uint8Array(box.width * box.height);
  for (let next = 0; next < area; next++) {
    const row = Math.floor(queue[next] / width),
      column = queue[next] - row * width;
    box.mask[(row - top) * box.width + column - left] = 1;
  }
  return box;
}

// The most frequent of counted labels, of equal ones the smallest; `otherwise` where there are none.
function mostFrequent(counts, otherwise) {
  let best = otherwise,
    most = 0;
  for (const [label, count] of counts) {
    if (count > most || (count === most && label < best)) {
      best = label;
      most = count;
    }
  }
  return best;
}

/** The label that most 4-neighbors outside of a region have; `otherwise` where it fills the grid. */
export function surrounding({ data, width, height }, region, otherwise) {
  const counts = new Map(),
    seen = new Set();
  const own = (x, y) =>
    x >= region.x &&
    y >= region.y &&
    x < region.x + region.width &&
    y < region.y + region.height &&
    region.mask[(y - region.y) * region.width + x - region.x];
  for (let y = region.y; y < region.y + region.height; y++) {
    for (let x = region.x; x < region.x + region.width; x++) {
      if (!own(x, y)) continue;
      for (const [dx, dy] of STEPS) {
        const nx = x + dx,
          ny = y + dy,
          near = ny * width + nx;
        if (nx < 0 || ny < 0 || nx >= width || ny >= height || own(nx, ny) || seen.has(near)) continue;
        seen.add(near);
        counts.set(data[near], (counts.get(data[near]) ?? 0) + 1);
      }
    }
  }
  return mostFrequent(counts, otherwise);
}

/** Pixels of the holes of a class: regions of the background that it alone surrounds, none at the border. */
export function holes(grid, label, background) {
  const { ids, list } = components(grid),
    pixels = [];
  if (label === background) return pixels;
  const inner = list
    .map((found, id) => [found, id])
    .filter(
      ([found]) =>
        found.label === background &&
        found.left > 0 &&
        found.top > 0 &&
        found.right < grid.width - 1 &&
        found.bottom < grid.height - 1,
    );
  const open = openRegions(grid, ids, new Set(inner.map(([, id]) => id)), label);
  const closed = new Set(inner.map(([, id]) => id).filter(id => !open.has(id)));
  ids.forEach((id, at) => {
    if (closed.has(id)) pixels.push(at);
  });
  return pixels;
}

// Those of `chosen` regions that have a neighbor of another label than this one.
function openRegions({ data, width }, ids, chosen, label) {
  const open = new Set();
  for (let at = 0; at < data.length; at++) {
    const id = ids[at];
    if (!chosen.has(id) || open.has(id)) continue;
    // None of them touches the border, so that every neighbor is one.
    for (const near of [at - 1, at + 1, at - width, at + width]) {
      if (ids[near] !== id && data[near] !== label) open.add(id);
    }
  }
  return open;
}

/** Regions below `limit` pixels of which a pixel is not as in `reference`: [{pixels, label around, x, y}]. */
export function pinholes(grid, limit, reference) {
  const { data, width } = grid,
    found = [],
    seen = new Set();
  for (let at = 0; at < data.length; at++) {
    if (data[at] === reference[at] || seen.has(at)) continue;
    const pixels = smallRegion(grid, at, limit);
    if (!pixels) continue;
    const counts = new Map(),
      rim = new Set();
    for (const pixel of pixels) {
      seen.add(pixel);
      for (const near of neighbors(grid, pixel)) {
        if (pixels.includes(near) || rim.has(near)) continue;
        rim.add(near);
        counts.set(data[near], (counts.get(data[near]) ?? 0) + 1);
      }
    }
    const columns = pixels.map(pixel => pixel % width),
      rows = pixels.map(pixel => Math.floor(pixel / width));
    const middle = all => (Math.min(...all) + Math.max(...all) + 1) / 2;
    found.push({ pixels, label: mostFrequent(counts, data[at]), x: middle(columns), y: middle(rows) });
  }
  return found;
}

function neighbors({ width, height }, at) {
  const x = at % width,
    y = (at - x) / width,
    found = [];
  if (x > 0) found.push(at - 1);
  if (x < width - 1) found.push(at + 1);
  if (y > 0) found.push(at - width);
  if (y < height - 1) found.push(at + width);
  return found;
}

// The pixels of the region at a pixel where there are fewer than `limit`, else null: it looks no farther.
function smallRegion(grid, at, limit) {
  const { data, width } = grid,
    label = data[at],
    x = at % width;
  const alike =
    (x > 0 && data[at - 1] === label) +
    (x < width - 1 && data[at + 1] === label) +
    (data[at - width] === label) +
    (data[at + width] === label);
  if (alike + 1 >= limit) return null; // nearly all pixels, at once
  const pixels = [at];
  for (let next = 0; next < pixels.length; next++) {
    for (const near of neighbors(grid, pixels[next])) {
      if (grid.data[near] !== grid.data[at] || pixels.includes(near)) continue;
      pixels.push(near);
      if (pixels.length >= limit) return null;
    }
  }
  return pixels;
}

/** The boxes of all regions but those of `left` labels, the largest first: [{x, y, width, height, label}]. */
export function boxes(grid, left) {
  return components(grid)
    .list.filter(found => !left.includes(found.label))
    .map(found => ({
      x: found.left,
      y: found.top,
      width: found.right - found.left + 1,
      height: found.bottom - found.top + 1,
      label: found.label,
      first: found.first,
    }))
    .sort((a, b) => b.width * b.height - a.width * a.height || a.first - b.first);
}
