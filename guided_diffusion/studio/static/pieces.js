// A part of a mask that was lifted out of it, or comes from the shelf: moved, scaled, turned, flipped, put down.
//
// A piece is {width, height, mask, label, x, y, scale, angle, flipX, flipY}: its own pixels, and where its center is on
// the map (x, y), how it is scaled, turned (degrees clockwise) and flipped. It is always made of its own pixels, so
// that turning it there and back changes nothing.

const SNUG = 1e-9; // so that a pixel's edge falls on the same side whatever the last bit of a sine

/** A piece as it lies in the map: of a region (regions.js). */
export function pieceOf(region) {
  return {
    width: region.width,
    height: region.height,
    mask: region.mask,
    label: region.label,
    x: region.x + region.width / 2,
    y: region.y + region.height / 2,
    scale: 1,
    angle: 0,
    flipX: false,
    flipY: false,
  };
}

/** A piece of a 0/1 mask with its center as near to (x, y) as whole pixels allow. */
export function pieceAt(mask, width, height, label, x, y) {
  const left = Math.floor(x - width / 2 + 0.5),
    top = Math.floor(y - height / 2 + 0.5);
  return pieceOf({ x: left, y: top, width, height, mask, label });
}

const QUARTERS = [
  [1, 0],
  [0, 1],
  [-1, 0],
  [0, -1],
];

function turn(angle) {
  const quarter = angle / 90;
  if (Number.isInteger(quarter)) return QUARTERS[((quarter % 4) + 4) % 4];
  const radians = (angle * Math.PI) / 180;
  return [Math.cos(radians), Math.sin(radians)];
}

/** The pixels of the map that a piece covers, by the nearest of its own: a region. At least the one at its center. */
export function covered(piece) {
  const [cos, sin] = turn(piece.angle);
  const halfWidth = ((Math.abs(cos) * piece.width + Math.abs(sin) * piece.height) * piece.scale) / 2;
  const halfHeight = ((Math.abs(sin) * piece.width + Math.abs(cos) * piece.height) * piece.scale) / 2;
  const left = Math.floor(piece.x - halfWidth),
    top = Math.floor(piece.y - halfHeight);
  const width = Math.max(1, Math.ceil(piece.x + halfWidth) - left);
  const height = Math.max(1, Math.ceil(piece.y + halfHeight) - top);
  const mask = new Uint8Array(width * height);
  let area = 0;
  for (let row = 0; row < height; row++) {
    const dy = top + row + 0.5 - piece.y;
    for (let column = 0; column < width; column++) {
      const dx = left + column + 0.5 - piece.x;
      const u = (cos * dx + sin * dy) / piece.scale,
        v = (cos * dy - sin * dx) / piece.scale;
      const sx = Math.floor((piece.flipX ? -u : u) + piece.width / 2 + SNUG);
      const sy = Math.floor((piece.flipY ? -v : v) + piece.height / 2 + SNUG);
      if (sx < 0 || sy < 0 || sx >= piece.width || sy >= piece.height || !piece.mask[sy * piece.width + sx]) continue;
      mask[row * width + column] = 1;
      area++;
    }
  }
  if (!area) {
    mask[(Math.floor(piece.y) - top) * width + Math.floor(piece.x) - left] = 1;
    area = 1;
  }
  return { x: left, y: top, width, height, area, label: piece.label, mask };
}

/** Does the piece cover the pixel (x, y)? */
export function covers(region, x, y) {
  const column = x - region.x,
    row = y - region.y;
  return (
    column >= 0 &&
    row >= 0 &&
    column < region.width &&
    row < region.height &&
    region.mask[row * region.width + column] === 1
  );
}
