// The large view of the mask: zoom, pan, layers. It draws what others tell it and knows no tools.

import { borders, LabelCanvas, paintMask, palette } from "./paint.js";

const MARGIN = 14; // CSS pixels around the mask when it fits
const LIMITS = [0.05, 80];
const DARK = "#10151e",
  LIGHT = "#ffffff";

export class View {
  constructor(canvas, work) {
    Object.assign(this, { canvas, work, zoom: 1, left: 0, top: 0, fitted: true });
    this.context = canvas.getContext("2d");
    this.labels = new LabelCanvas();
    this.full = palette(work.run);
    this.clear = palette(work.run, [work.background]);
    this.mode = "overlay";
    this.opacity = 0.55;
    this.picture = null; // the image below the mask
    this.hole = null; // {data, width, height}: what is painted anew
    this.places = []; // of pinholes
    this.pointer = null; // {x, y, diameter}: the brush; or {x, y}: a cross
    this.piece = null; // {region, color, handles}
    this.sketch = null; // {points} of a lasso, or {box}
    this.colors = null;
    this.outline = null;
    this.onzoom = () => {};
    new ResizeObserver(() => this._resize()).observe(canvas);
  }

  /** Where a pointer is, in pixels of the map; the page may be zoomed. */
  locate(event) {
    const [x, y] = this.inView(event);
    return [(x - this.left) / this.zoom, (y - this.top) / this.zoom];
  }

  /** Where a pointer is, in pixels of the view. */
  inView({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((clientX - box.left) * this.canvas.offsetWidth) / box.width,
      ((clientY - box.top) * this.canvas.offsetHeight) / box.height,
    ];
  }

  fit() {
    const { width, height } = this.work.map;
    const wide = this.canvas.offsetWidth - 2 * MARGIN,
      high = this.canvas.offsetHeight - 2 * MARGIN;
    if (wide <= 0 || high <= 0) return;
    const zoom = Math.min(wide / width, high / height);
    this.zoom = zoom >= 1 ? Math.floor(zoom * 4) / 4 : zoom;
    this.left = Math.round((this.canvas.offsetWidth - width * this.zoom) / 2);
    this.top = Math.round((this.canvas.offsetHeight - height * this.zoom) / 2);
    this.fitted = true;
    this.onzoom();
    this.draw();
  }

  /** Zoom by a factor about a place of the view, by default its middle. */
  zoomBy(factor, [x, y] = [this.canvas.offsetWidth / 2, this.canvas.offsetHeight / 2]) {
    const zoom = Math.min(LIMITS[1], Math.max(LIMITS[0], this.zoom * factor));
    this.left = x - ((x - this.left) * zoom) / this.zoom;
    this.top = y - ((y - this.top) * zoom) / this.zoom;
    this.zoom = zoom;
    this.fitted = false;
    this.onzoom();
    this.draw();
  }

  pan(x, y) {
    this.left += x;
    this.top += y;
    this.fitted = false;
    this.draw();
  }

  /** Draw at the next frame. */
  draw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  _resize() {
    if (this.fitted) this.fit();
    this.paint();
  }

  // As many pixels as the screen has there: also on another screen, to which a window is moved.
  _sharpen() {
    const { canvas } = this;
    const [wide, high] = [canvas.offsetWidth, canvas.offsetHeight].map(size => Math.round(size * devicePixelRatio));
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== high) canvas.height = high;
  }

  // Bring the colors of the labels up to date: only what changed, unless other colors are asked for.
  _update() {
    const { map } = this.work;
    const colors = this.mode === "overlay" && this.picture ? this.clear : this.full;
    let fresh = map.take();
    if (fresh.length) this.outline = null;
    if (colors !== this.colors) fresh = [{ left: 0, top: 0, right: map.width, bottom: map.height }];
    this.colors = colors;
    for (const rectangle of fresh) this.labels.paint(map, colors, rectangle);
  }

  /** Draw now. */
  paint() {
    this._update();
    this._sharpen();
    const {
      context,
      canvas,
      zoom,
      work: {
        map: { width, height },
      },
    } = this;
    const ratio = canvas.width / canvas.offsetWidth || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(ratio * zoom, 0, 0, ratio * zoom, ratio * this.left, ratio * this.top);
    context.imageSmoothingEnabled = ratio * zoom < 1;
    context.fillStyle = "#8a93a3";
    context.fillRect(0, 0, width, height);
    const shown = this.mode === "labels" ? null : this.picture;
    if (shown) context.drawImage(shown, 0, 0, width, height);
    if (this.mode !== "image") this._drawLabels(shown);
    if (this.hole && this.hole.width === width && this.mode !== "labels") {
      this.hole.path ??= borders(this.hole);
      this._line(this.hole.path, LIGHT, 1.5, [6, 4]);
    }
    for (const { x, y } of this.places) this._ring(x, y, 7 / zoom);
    if (this.piece) this._drawPiece();
    if (this.sketch) this._drawSketch();
    if (this.pointer) this._drawPointer();
  }

  _drawLabels(shown) {
    const {
      context,
      work: { map },
    } = this;
    if (this.mode === "outline" && shown) {
      this.outline ??= borders(map);
      this._line(this.outline, LIGHT, 1.25);
      return;
    }
    context.globalAlpha = this.mode === "labels" || !shown ? 1 : this.opacity;
    context.drawImage(this.labels.canvas, 0, 0);
    context.globalAlpha = 1;
  }

  // A line that is seen on any color: a light one on a dark, wider one. Widths in CSS pixels.
  _line(path, color, width, dashes = []) {
    const { context, zoom } = this;
    context.setLineDash(dashes.map(length => length / zoom));
    for (const [stroke, wide] of [
      [color === LIGHT ? DARK : LIGHT, width + 2],
      [color, width],
    ]) {
      context.strokeStyle = stroke;
      context.globalAlpha = stroke === color ? 1 : 0.6;
      context.lineWidth = wide / zoom;
      context.stroke(path);
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  }

  _ring(x, y, radius) {
    const path = new Path2D();
    path.arc(x, y, radius, 0, 2 * Math.PI);
    this._line(path, LIGHT, 1.5);
  }

  _drawPiece() {
    const {
      context,
      piece: { region, color, handles },
      zoom,
    } = this;
    if (this.lifted?.region !== region) {
      this.lifted ??= document.createElement("canvas");
      this.lifted.region = region;
      paintMask(this.lifted, region.mask, region.width, region.height, color);
    }
    context.globalAlpha = this.mode === "labels" ? 1 : Math.max(0.6, this.opacity);
    context.drawImage(this.lifted, region.x, region.y);
    context.globalAlpha = 1;
    const frame = new Path2D();
    frame.rect(region.x, region.y, region.width, region.height);
    frame.moveTo(region.x + region.width / 2, region.y);
    frame.lineTo(...handles.turn);
    this._line(frame, LIGHT, 1, [4, 4]);
    for (const [x, y] of Object.values(handles)) {
      context.fillStyle = LIGHT;
      context.strokeStyle = DARK;
      context.lineWidth = 1.5 / zoom;
      context.beginPath();
      context.arc(x, y, 5.5 / zoom, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }

  _drawSketch() {
    const path = new Path2D(),
      { points, box } = this.sketch;
    if (box) path.rect(...box);
    else {
      points.forEach(([x, y], at) => path[at ? "lineTo" : "moveTo"](x, y));
      path.closePath();
    }
    this._line(path, LIGHT, 1.5);
  }

  // The brush at its true size, centered where it paints; for other tools a cross.
  _drawPointer() {
    const { x, y, diameter } = this.pointer;
    if (diameter) {
      const at = value => (diameter % 2 ? Math.floor(value) + 0.5 : Math.floor(value + 0.5));
      return this._ring(at(x), at(y), diameter / 2);
    }
    const path = new Path2D(),
      arm = 9 / this.zoom,
      gap = 3 / this.zoom;
    for (const [dx, dy] of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
    ]) {
      path.moveTo(x + dx * gap, y + dy * gap);
      path.lineTo(x + dx * arm, y + dy * arm);
    }
    return this._line(path, LIGHT, 1.25);
  }
}
