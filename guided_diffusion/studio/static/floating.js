// A part that is lifted out of the mask, or comes from the shelf: it floats until it is put down.

import { drop, lift } from "./edits.js";
import { covered, covers, pieceAt } from "./pieces.js";

const REACH = 11; // CSS pixels within which a handle is grasped
const ARM = 24; // length of the handle that turns
const SCALES = [0.1, 10];

export class Floating {
  constructor(work, view, onchange) {
    Object.assign(this, { work, view, onchange, piece: null, region: null, grasp: null, pair: null });
  }

  /** Lift the part at pixel (x, y). */
  lift(x, y) {
    this.putDown();
    const { map, background } = this.work;
    if (map.data[y * map.width + x] === background) return false; // what is behind everything is no part
    const piece = lift(map, x, y, background);
    this.pair = null;
    if (piece) this._set(piece, true);
    return piece !== null;
  }

  /** Let a part of the shelf, of the mask of the training pair `pair`, float at the middle of what is seen. */
  bring(mask, width, height, label, pair) {
    this.putDown();
    this.pair = pair;
    const {
      view,
      work: { map },
    } = this;
    const limit = (value, most) => Math.min(most, Math.max(0, value));
    const x = limit((view.canvas.offsetWidth / 2 - view.left) / view.zoom, map.width);
    const y = limit((view.canvas.offsetHeight / 2 - view.top) / view.zoom, map.height);
    this._set(pieceAt(mask, width, height, label, x, y), false);
  }

  /** Change where it is, its scale, angle, or flips. */
  change(changes) {
    if (!this.piece) return;
    const scale = Math.min(SCALES[1], Math.max(SCALES[0], changes.scale ?? this.piece.scale));
    this._set({ ...this.piece, ...changes, scale }, this.fromMap);
  }

  putDown() {
    if (!this.piece) return;
    const { piece } = this;
    this._clear();
    drop(this.work.map, piece, this.pair);
    this.work.changed();
  }

  /** Leave the mask as it was before. */
  cancel() {
    if (!this.piece) return;
    this._clear();
    if (this.work.map.editing) this.work.map.cancel();
    this.work.changed(false);
  }

  /** Take it away for good. */
  remove() {
    if (!this.piece) return;
    this._clear();
    if (this.work.map.editing) this.work.map.commit();
    this.work.changed();
  }

  /** Another mask has taken the place of the one it was lifted from. */
  vanish() {
    if (this.piece) this._clear();
  }

  /** Is there something to be grasped at (x, y)? Then drag() follows. */
  press(x, y) {
    if (!this.piece) return false;
    const near = ([hx, hy]) => Math.hypot(hx - x, hy - y) * this.view.zoom <= REACH;
    const handles = this._handles(),
      from = { ...this.piece };
    const distance = Math.hypot(x - from.x, y - from.y) || 1,
      angle = Math.atan2(y - from.y, x - from.x);
    if (near(handles.turn)) {
      this.grasp = (px, py, snapped) => {
        const turned = from.angle + ((Math.atan2(py - from.y, px - from.x) - angle) * 180) / Math.PI;
        const step = snapped ? 15 : 1,
          wrapped = ((((turned + 180) % 360) + 360) % 360) - 180;
        this.change({ angle: Math.round(wrapped / step) * step });
      };
    } else if (near(handles.scale)) {
      this.grasp = (px, py) => this.change({ scale: (from.scale * Math.hypot(px - from.x, py - from.y)) / distance });
    } else if (this._within(x, y)) {
      // Whole pixels, so that a part that is only moved keeps its own.
      this.grasp = (px, py) => this.change({ x: from.x + Math.round(px - x), y: from.y + Math.round(py - y) });
    }
    return this.grasp !== null;
  }

  drag(x, y, snapped) {
    this.grasp?.(x, y, snapped);
  }

  release() {
    this.grasp = null;
  }

  // On the part or close to it: thin parts are hard to hit.
  _within(x, y) {
    const { region, view } = this,
      reach = REACH / view.zoom;
    return (
      covers(region, Math.floor(x), Math.floor(y)) ||
      (x > region.x - reach &&
        y > region.y - reach &&
        x < region.x + region.width + reach &&
        y < region.y + region.height + reach)
    );
  }

  _handles() {
    const { x, y, width, height } = this.region;
    return { turn: [x + width / 2, y - ARM / this.view.zoom], scale: [x + width, y + height] };
  }

  _set(piece, fromMap) {
    const starting = this.piece === null;
    Object.assign(this, { piece, fromMap, region: covered(piece) });
    this._show();
    this.work.changed(false);
    this.onchange(starting);
  }

  /** Show it again, at another zoom. */
  _show() {
    const { classes } = this.work.run;
    const color = classes.find(({ index }) => index === this.piece.label)?.color ?? "#808080";
    this.view.piece = { region: this.region, color, handles: this._handles() };
    this.view.draw();
  }

  refresh() {
    if (this.piece) this._show();
  }

  _clear() {
    Object.assign(this, { piece: null, region: null, grasp: null });
    this.view.piece = null;
    this.onchange(false);
  }
}
