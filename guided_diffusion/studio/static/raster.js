// Which pixels a shape covers. Whole numbers decide, so that every browser covers the same pixels.
//
// Lengths are in half pixels: the center of pixel i is at 2 i + 1, its edges at 2 i and 2 i + 2.
// A shape calls span(y, from, to) for each row of pixels that it covers, `to` excluded, cut off at the map's border.

/** Half pixel at which a brush of `diameter` pixels sits: a pixel's center where odd, a corner where even. */
export function snap(position, diameter) {
  return diameter % 2 ? 2 * Math.floor(position) + 1 : 2 * Math.floor(position + 0.5);
}

/** Half pixel of the nearest corner of a pixel: where the vertices of a lasso are. */
export function corner(position) {
  return 2 * Math.floor(position + 0.5);
}

function toSegment(ax, ay, bx, by, d) {
  const dx = bx - ax,
    dy = by - ay,
    length2 = dx * dx + dy * dy;
  const reach = d * d;
  return (cx, cy) => {
    const px = cx - ax,
      py = cy - ay;
    const along = px * dx + py * dy;
    if (along <= 0) return px * px + py * py <= reach;
    if (along >= length2) return (cx - bx) ** 2 + (cy - by) ** 2 <= reach;
    return (dx * py - dy * px) ** 2 <= reach * length2;
  };
}

// Roughly from where to where the row at `cy` runs through the capsule, in half pixels; null: not at all.
function roughRow(ax, ay, bx, by, d, cy) {
  let low = Infinity,
    high = -Infinity;
  for (const [x, y] of [
    [ax, ay],
    [bx, by],
  ]) {
    const left = d * d - (cy - y) ** 2;
    if (left < 0) continue;
    low = Math.min(low, x - Math.sqrt(left));
    high = Math.max(high, x + Math.sqrt(left));
  }
  const dx = bx - ax,
    dy = by - ay,
    length = Math.hypot(dx, dy);
  if (length > 0) {
    let from = -Infinity,
      to = Infinity;
    const limit = (factor, a, b) => {
      // a <= factor * (x - ax) <= b
      if (factor === 0) {
        if (a > 0 || b < 0) to = -Infinity;
        return;
      }
      const [p, q] = factor > 0 ? [a / factor, b / factor] : [b / factor, a / factor];
      from = Math.max(from, p);
      to = Math.min(to, q);
    };
    const across = dx * (cy - ay),
      along = dy * (cy - ay);
    limit(dy, across - d * length, across + d * length);
    limit(dx, -along, length * length - along);
    if (from <= to) {
      low = Math.min(low, ax + from);
      high = Math.max(high, ax + to);
    }
  }
  return low <= high ? [low, high] : null;
}

/** A disc of diameter `d` pixels drawn from (ax, ay) to (bx, by), in half pixels: centers within d of the segment. */
export function capsule(ax, ay, bx, by, d, width, height, span) {
  const inside = toSegment(ax, ay, bx, by, d);
  const top = Math.max(0, Math.ceil((Math.min(ay, by) - d - 1) / 2));
  const bottom = Math.min(height - 1, Math.floor((Math.max(ay, by) + d - 1) / 2));
  for (let y = top; y <= bottom; y++) {
    const cy = 2 * y + 1;
    const rough = roughRow(ax, ay, bx, by, d, cy);
    if (!rough) continue;
    let from = Math.floor((rough[0] - 1) / 2) - 1,
      to = Math.ceil((rough[1] - 1) / 2) + 1;
    while (from <= to && !inside(2 * from + 1, cy)) from++;
    while (from <= to && !inside(2 * to + 1, cy)) to--;
    from = Math.max(from, 0);
    to = Math.min(to + 1, width);
    if (from < to) span(y, from, to);
  }
}

/** The pixels whose centers a closed line winds around; `points` [x, y] are corners of pixels, in half pixels. */
export function polygon(points, width, height, span) {
  const edges = [];
  for (let i = 0; i < points.length; i++) {
    const [ax, ay] = points[i],
      [bx, by] = points[(i + 1) % points.length];
    if (ay === by) continue;
    edges.push(
      ay < by ? { ax, ay, dx: bx - ax, dy: by - ay, turn: 1 } : { ax: bx, ay: by, dx: ax - bx, dy: ay - by, turn: -1 },
    );
  }
  if (!edges.length) return;
  const top = Math.max(0, Math.min(...edges.map(edge => edge.ay)) / 2);
  const bottom = Math.min(height, Math.max(...edges.map(edge => edge.ay + edge.dy)) / 2);
  edges.sort((a, b) => a.ay - b.ay);
  let active = [],
    next = 0;
  for (let y = top; y < bottom; y++) {
    const cy = 2 * y + 1;
    while (next < edges.length && edges[next].ay < cy) active.push(edges[next++]);
    active = active.filter(edge => edge.ay + edge.dy > cy);
    // The first pixel whose center is at or right of the crossing.
    const crossings = active.map(edge => [
      Math.ceil(((edge.ax - 1) * edge.dy + (cy - edge.ay) * edge.dx) / (2 * edge.dy)),
      edge.turn,
    ]);
    crossings.sort((a, b) => a[0] - b[0]);
    let winding = 0;
    for (let i = 0; i + 1 < crossings.length; i++) {
      winding += crossings[i][1];
      const from = Math.max(0, crossings[i][0]),
        to = Math.min(width, crossings[i + 1][0]);
      if (winding !== 0 && from < to) span(y, from, to);
    }
  }
}

/** All pixels between two of them, both included. */
export function rectangle(ax, ay, bx, by, width, height, span) {
  const from = Math.max(0, Math.min(ax, bx)),
    to = Math.min(width, Math.max(ax, bx) + 1);
  if (from >= to) return;
  for (let y = Math.max(0, Math.min(ay, by)); y <= Math.min(height - 1, Math.max(ay, by)); y++) span(y, from, to);
}
