// A label map that is edited: typed array, what a stroke changed, undo and redo. Nothing here knows a canvas.

export const CAP = 64 * 2 ** 20; // bytes of all that can be undone

const BAND = 16; // rows

const ARRAYS = { u8: Uint8Array, u16: Uint16Array };

/** Join two rectangles {left, top, right, bottom} (right and bottom excluded); null is the empty one. */
export function join(a, b) {
  if (!a || !b) return a ?? b;
  return {
    left: Math.min(a.left, b.left),
    top: Math.min(a.top, b.top),
    right: Math.max(a.right, b.right),
    bottom: Math.max(a.bottom, b.bottom),
  };
}

// What was changed since somebody looked: from where to where in each row.
class Changes {
  constructor(height) {
    this.from = new Int32Array(height).fill(2 ** 31 - 1);
    this.to = new Int32Array(height);
    this.top = height;
    this.bottom = 0;
  }

  add({ left, top, right, bottom }) {
    for (let y = top; y < bottom; y++) {
      if (left < this.from[y]) this.from[y] = left;
      if (right > this.to[y]) this.to[y] = right;
    }
    this.top = Math.min(this.top, top);
    this.bottom = Math.max(this.bottom, bottom);
  }

  // A rectangle for each few rows: that of a slanting stroke alone would be most of the map.
  rectangles() {
    const found = [];
    for (let top = this.top; top < this.bottom; top += BAND) {
      const bottom = Math.min(top + BAND, this.bottom);
      const left = Math.min(...this.from.subarray(top, bottom)),
        right = Math.max(...this.to.subarray(top, bottom));
      if (left < right) found.push({ left, top, right, bottom });
    }
    return found;
  }
}

/** Labels [height, width], row by row. Every change lies between begin() and commit(), and is one step of undo. */
export class LabelMap {
  constructor(type, width, height, fill = 0, cap = CAP) {
    this.type = type;
    this.cap = cap;
    this.past = [];
    this.future = [];
    this.bytes = 0;
    this.open = null; // what the stroke that is being made has changed so far
    this._set(new ARRAYS[type](width * height).fill(fill), width, height, null);
  }

  _set(data, width, height, about, parts = []) {
    this.data = data;
    this.before = data.slice(); // as it was before the stroke
    this.width = width;
    this.height = height;
    this.about = about; // where the map came from
    this.parts = parts; // the training pairs of whose masks parts were put onto it
    this.fresh = new Changes(height); // since take()
    this.fresh.add({ left: 0, top: 0, right: width, bottom: height });
  }

  get editing() {
    return this.open !== null;
  }

  begin() {
    if (this.open) throw new Error("a stroke is being made already");
    this.open = { changed: null };
  }

  /** Tell of changed pixels of a row. */
  touch(y, from, to) {
    const changed = { left: from, top: y, right: to, bottom: y + 1 };
    this.open.changed = join(this.open.changed, changed);
    this.fresh.add(changed);
  }

  /** Give the pixels from `from` to `to` (excluded) of row y a label. */
  span(y, from, to, label) {
    this.data.fill(label, y * this.width + from, y * this.width + to);
    this.touch(y, from, to);
  }

  /** Give them the labels that `source`, a map of the same size, has there. */
  copy(y, from, to, source) {
    const start = y * this.width;
    this.data.set(source.subarray(start + from, start + to), start + from);
    this.touch(y, from, to);
  }

  /** End the stroke, after which the map has `parts`; is there a pixel that it changed? */
  commit(parts = this.parts) {
    const changed = this._shrink(this.open.changed);
    this.open = null;
    if (!changed) return false;
    this._remember({ ...changed, data: this._patch(this.before, changed), parts: this.parts });
    this.parts = parts;
    this._write(this.before, changed, this._patch(this.data, changed));
    return true;
  }

  /** End the stroke as if it had not been. */
  cancel() {
    const { changed } = this.open;
    this.open = null;
    if (!changed) return;
    this._write(this.data, changed, this._patch(this.before, changed));
    this.fresh.add(changed);
  }

  /** Take another map, of whatever size: one step of undo as well. The array is copied. */
  load(data, width, height, about = null, parts = []) {
    if (this.open) this.cancel();
    if (data.length !== width * height) throw new Error(`${data.length} labels are not ${height} x ${width}`);
    this._remember(this._whole());
    this._set(ARRAYS[this.type].from(data), width, height, about, parts);
  }

  undo() {
    return this._step(this.past, this.future);
  }

  redo() {
    return this._step(this.future, this.past);
  }

  /** Forget all steps. */
  forget() {
    this.past = [];
    this.future = [];
    this.bytes = 0;
  }

  /** Rectangles that have all that changed since the last call. */
  take() {
    const { fresh } = this;
    this.fresh = new Changes(this.height);
    return fresh.rectangles();
  }

  _whole() {
    const { data, width, height, about, parts } = this;
    return { whole: true, data, width, height, about, parts };
  }

  _remember(entry) {
    for (const { data } of this.future) this.bytes -= data.byteLength;
    this.future = [];
    this.past.push(entry);
    this.bytes += entry.data.byteLength;
    while (this.bytes > this.cap && this.past.length > 1) this.bytes -= this.past.shift().data.byteLength;
  }

  _step(from, to) {
    if (this.open) this.cancel();
    const entry = from.pop();
    if (!entry) return false;
    this.bytes -= entry.data.byteLength;
    let opposite;
    if (entry.whole) {
      opposite = this._whole();
      this._set(entry.data, entry.width, entry.height, entry.about, entry.parts);
    } else {
      opposite = { ...entry, data: this._patch(this.data, entry), parts: this.parts };
      this.parts = entry.parts;
      this._write(this.data, entry, entry.data);
      this._write(this.before, entry, entry.data);
      this.fresh.add(entry);
    }
    this.bytes += opposite.data.byteLength;
    to.push(opposite);
    return true;
  }

  // The rectangle of the pixels that differ from those before the stroke, or null.
  _shrink(rect) {
    if (!rect) return null;
    let found = null;
    for (let y = rect.top; y < rect.bottom; y++) {
      const start = y * this.width;
      let from = rect.left,
        to = rect.right;
      while (from < to && this.data[start + from] === this.before[start + from]) from++;
      while (to > from && this.data[start + to - 1] === this.before[start + to - 1]) to--;
      if (from < to) found = join(found, { left: from, top: y, right: to, bottom: y + 1 });
    }
    return found;
  }

  _patch(source, { left, top, right, bottom }) {
    const wide = right - left,
      patch = new ARRAYS[this.type](wide * (bottom - top));
    for (let y = top; y < bottom; y++) {
      patch.set(source.subarray(y * this.width + left, y * this.width + right), (y - top) * wide);
    }
    return patch;
  }

  _write(target, { left, top, right, bottom }, patch) {
    const wide = right - left;
    for (let y = top; y < bottom; y++) {
      target.set(patch.subarray((y - top) * wide, (y - top + 1) * wide), y * this.width + left);
    }
  }
}

/** Labels of the wire, `u8` or little-endian `u16`, as an array of their own. */
export function fromBytes(type, buffer) {
  if (type === "u8") return new Uint8Array(buffer.slice(0));
  const view = new DataView(buffer),
    data = new Uint16Array(buffer.byteLength / 2);
  for (let i = 0; i < data.length; i++) data[i] = view.getUint16(2 * i, true);
  return data;
}

/** The bytes of labels as they go over the wire. */
export function toBytes(data) {
  if (data instanceof Uint8Array) return data.slice();
  const bytes = new Uint8Array(2 * data.length),
    view = new DataView(bytes.buffer);
  data.forEach((label, i) => view.setUint16(2 * i, label, true));
  return bytes;
}
