// Label maps as colors: what a canvas is given to show. Nothing is ever read from a canvas.

const rgb = color => [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));

/** Colors of labels as 32-bit pixels; of labels in `clear` fully transparent ones, of no class gray. */
export function palette(run, clear = []) {
  const colors = new Uint32Array(run.label_type === "u8" ? 256 : 65_536);
  const bytes = new Uint8ClampedArray(colors.buffer);
  const put = (index, [r, g, b]) => bytes.set([r, g, b, clear.includes(index) ? 0 : 255], 4 * index);
  for (const { index, color } of run.classes) put(index, rgb(color));
  if (run.null !== null) put(run.null, [128, 128, 128]);
  return colors;
}

/** A canvas that shows a label map; paint() repaints a rectangle of it. */
export class LabelCanvas {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
  }

  /** Paint the rectangle {left, top, right, bottom} of a map {data, width, height}. */
  paint(map, colors, rect) {
    const { canvas } = this;
    if (canvas.width !== map.width || canvas.height !== map.height) {
      canvas.width = map.width;
      canvas.height = map.height;
      rect = { left: 0, top: 0, right: map.width, bottom: map.height };
    }
    const wide = rect.right - rect.left,
      high = rect.bottom - rect.top;
    if (wide <= 0 || high <= 0) return;
    const image = new ImageData(wide, high),
      pixels = new Uint32Array(image.data.buffer);
    for (let y = 0, to = 0; y < high; y++) {
      const from = (rect.top + y) * map.width + rect.left;
      for (let x = 0; x < wide; x++) pixels[to++] = colors[map.data[from + x]];
    }
    this.context.putImageData(image, rect.left, rect.top);
  }
}

/** Show a 0/1 mask in one color on a canvas of its size. */
export function paintMask(canvas, mask, width, height, color, alpha = 255) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height),
    pixel = [...rgb(color), alpha];
  for (let at = 0; at < mask.length; at++) if (mask[at]) image.data.set(pixel, 4 * at);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The borders between labels (or of a 0/1 mask) as a path in pixels of the map; straight runs are one line. */
export function borders({ data, width, height }) {
  const path = new Path2D();
  for (let y = 1; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = x;
      while (x < width && data[y * width + x] !== data[(y - 1) * width + x]) x++;
      if (x > from) {
        path.moveTo(from, y);
        path.lineTo(x, y);
      }
    }
  }
  for (let x = 1; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const from = y;
      while (y < height && data[y * width + x] !== data[y * width + x - 1]) y++;
      if (y > from) {
        path.moveTo(x, from);
        path.lineTo(x, y);
      }
    }
  }
  return path;
}
