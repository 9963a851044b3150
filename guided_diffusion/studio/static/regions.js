// Connected regions of a label map: 4-connected pixels of one label.
//
// A grid is {data, width, height}, data row by row. A region is {x, y, width, height, area, label, mask}: its box, and
// which pixels of the box belong to it.

const STEPS = [[-1, 0], [1, 0], [0, -1], [0, 1]];

/** Number the regions of a grid in the order of their first pixels: {ids, list of {label, area, first, box}}. */
export function components({ data, width, height }) {
  const ids = new Int32Array(data.length).fill(-1);
  const list = [];
  const stack = [];
  for (let first = 0; first < data.length; first++) {
    if (ids[first] >= 0) continue;
    const label = data[first], id = list.length;
    const found = { label, area: 0, first, left: width, top: height, right: -1, bottom: -1 };
    stack.push(first);
    ids[first] = id;
    while (stack.length) {
      const at = stack.pop(), x = at % width, y = (at - x) / width;
      found.area++;
      if (x < found.left) found.left = x;
      if (x > found.right) found.right = x;
      if (y < found.top) found.top = y;
      if (y > found.bottom) found.bottom = y;
      if (x > 0 && ids[at - 1] < 0 && data[at - 1] === label) { ids[at - 1] = id; stack.push(at - 1); }
      if (x < width - 1 && ids[at + 1] < 0 && data[at + 1] === label) { ids[at + 1] = id; stack.push(at + 1); }
      if (y > 0 && ids[at - width] < 0 && data[at - width] === label) { ids[at - width] = id; stack.push(at - width); }
      if (y < height - 1 && ids[at + width] < 0 && data[at + width] === label) { ids[at + width] = id; stack.push(at + width); }
    }
    list.push(found);
  }
  return { ids, list };
}

/** Return the region that has the pixel (x, y). */
export function flood({ data, width, height }, x, y) {
  const label = data[y * width + x];
  const seen = new Uint8Array(data.length);
  const stack = [y * width + x];
  const pixels = [];
  seen[stack[0]] = 1;
  let left = x, right = x, top = y, bottom = y;
  while (stack.length) {
    const at = stack.pop(), px = at % width, py = (at - px) / width;
    pixels.push(at);
    left = Math.min(left, px); right = Math.max(right, px);
    top = Math.min(top, py); bottom = Math.max(bottom, py);
    for (const [dx, dy] of STEPS) {
      const nx = px + dx, ny = py + dy, near = ny * width + nx;
      if (nx < 0 || ny < 0 || nx >= width || ny >= height || seen[near] || data[near] !== label) continue;
      seen[near] = 1;
      stack.push(near);
    }
  }
  const box = { x: left, y: top, width: right - left + 1, height: bottom - top + 1, area: pixels.length, label };
  box.mask = new Uint8Array(box.width * box.height);
  for (const at of pixels) {
    const px = at % width;
    box.mask[((at - px) / width - top) * box.width + px - left] = 1;
  }
  return box;
}

// The most frequent of counted labels, of equal ones the smallest; `otherwise` where there are none.
function mostFrequent(counts, otherwise) {
  let best = otherwise, most = 0;
  for (const [label, count] of counts) {
    if (count > most || (count === most && label < best)) { best = label; most = count; }
  }
  return best;
}

/** The label that most 4-neighbors outside of a region have; `otherwise` where it fills the grid. */
export function surrounding({ data, width, height }, region, otherwise) {
  const counts = new Map(), seen = new Set();
  const own = (x, y) => x >= region.x && y >= region.y && x < region.x + region.width && y < region.y + region.height
    && region.mask[(y - region.y) * region.width + x - region.x];
  for (let y = region.y; y < region.y + region.height; y++) {
    for (let x = region.x; x < region.x + region.width; x++) {
      if (!own(x, y)) continue;
      for (const [dx, dy] of STEPS) {
        const nx = x + dx, ny = y + dy, near = ny * width + nx;
        if (nx < 0 || ny < 0 || nx >= width || ny >= height || own(nx, ny) || seen.has(near)) continue;
        seen.add(near);
        counts.set(data[near], (counts.get(data[near]) ?? 0) + 1);
      }
    }
  }
  return mostFrequent(counts, otherwise);
}

// For each id of `chosen`: label -> how many 4-neighbors of the region have it.
function rims({ data, width, height }, ids, chosen) {
  const counts = new Map([...chosen].map(id => [id, new Map()]));
  const seen = new Map([...chosen].map(id => [id, new Set()]));
  for (let at = 0; at < data.length; at++) {
    const id = ids[at];
    if (!counts.has(id)) continue;
    const x = at % width, y = (at - x) / width;
    for (const [dx, dy] of STEPS) {
      const nx = x + dx, ny = y + dy, near = ny * width + nx;
      if (nx < 0 || ny < 0 || nx >= width || ny >= height || ids[near] === id || seen.get(id).has(near)) continue;
      seen.get(id).add(near);
      counts.get(id).set(data[near], (counts.get(id).get(data[near]) ?? 0) + 1);
    }
  }
  return counts;
}

/** Holes of a class: regions of the background whose neighbors all have it, none at the border; [{first, label}]. */
export function holes(grid, label, background) {
  const { ids, list } = components(grid);
  const inner = list.map((found, id) => [found, id]).filter(([found]) => found.label === background && label !== background
    && found.left > 0 && found.top > 0 && found.right < grid.width - 1 && found.bottom < grid.height - 1);
  const counts = rims(grid, ids, new Set(inner.map(([, id]) => id)));
  const chosen = new Map();
  for (const [, id] of inner) {
    if (counts.get(id).size === 1 && counts.get(id).has(label)) chosen.set(id, label);
  }
  return { ids, chosen };
}

/** Regions below `limit` pixels of which a pixel is not as in `reference`, and the label around each. */
export function pinholes(grid, limit, reference) {
  const { ids, list } = components(grid);
  const small = new Set();
  for (let at = 0; at < ids.length; at++) {
    if (list[ids[at]].area < limit && grid.data[at] !== reference[at]) small.add(ids[at]);
  }
  const counts = rims(grid, ids, small);
  const chosen = new Map(), places = [];
  for (const id of small) {
    const { left, right, top, bottom, label } = list[id];
    chosen.set(id, mostFrequent(counts.get(id), label));
    places.push([(left + right + 1) / 2, (top + bottom + 1) / 2]);
  }
  return { ids, chosen, places };
}

/** The boxes of all regions but those of `left` labels, the largest first: [{x, y, width, height, label}]. */
export function boxes(grid, left) {
  return components(grid).list.filter(found => !left.includes(found.label))
    .map(found => ({
      x: found.left, y: found.top, width: found.right - found.left + 1, height: found.bottom - found.top + 1,
      label: found.label, first: found.first,
    }))
    .sort((a, b) => b.width * b.height - a.width * a.height || a.first - b.first);
}
