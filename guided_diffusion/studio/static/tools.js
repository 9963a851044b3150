// What the pointer does on the view: the tools, panning, zooming; also the arrow keys.

import { box, fill, lasso, Stroke } from "./edits.js";
import { settings } from "./settings.js";

const BRUSHES = ["brush", "eraser", "restore"];
const WHEEL = 0.0016; // how much a notch of the wheel zooms

export class Tools {
  constructor(work, view, floating) {
    Object.assign(this, { work, view, floating, action: null, space: false, touches: new Map(), alt: false });
    this.cursor = null; // [x, y] of the keyboard
    this.last = null; // [x, y] of the pointer
    this.typed = false; // was the view reached by Tab? Else arrow keys go through the candidates
    const { canvas } = view;
    for (const [name, handler] of Object.entries({
      pointerdown: this._down,
      pointermove: this._move,
      pointerup: this._up,
      pointercancel: this._cancel,
      pointerleave: this._leave,
      wheel: this._wheel,
      keydown: this._key,
      blur: this._leave,
      focus: () => {
        this.typed = !this.pressed;
      },
    }))
      canvas.addEventListener(name, handler.bind(this), { passive: false });
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    // Another mask has come in the midst of a stroke: it has taken the stroke back.
    work.addEventListener("begin", () => {
      this.action = null;
      view.sketch = null;
    });
  }

  /** Is the pointer on the view? */
  get over() {
    return this.last !== null;
  }

  get busy() {
    return this.action !== null;
  }

  /** The tool in hand: with Alt it erases. */
  get tool() {
    return this.alt && settings.tool !== "move" ? "eraser" : settings.tool;
  }

  /** Another tool was chosen: a part that floats is put down. */
  chosen() {
    if (settings.tool !== "move") this.floating.putDown();
    this.showPointer();
  }

  /** Leave what is being done as if it had not begun; was there something? */
  cancel() {
    if (this.action) {
      if (this.action.stroke) this.work.map.cancel();
      this._finish(false);
      return true;
    }
    if (!this.floating.piece) return false;
    this.floating.cancel();
    return true;
  }

  _label() {
    return this.tool === "eraser" ? this.work.background : this.work.label;
  }

  _down(event) {
    this.pressed = true;
    this.view.canvas.focus({ preventScroll: true });
    this.pressed = this.typed = false;
    this.alt = event.altKey;
    if (event.pointerType === "touch" && this._touch(event)) return;
    if (this.action || event.button > 1) return;
    event.preventDefault();
    this.view.canvas.setPointerCapture(event.pointerId);
    if (event.button === 1 || this.space) {
      this.action = { pan: [event.clientX, event.clientY], pointer: event.pointerId };
      return;
    }
    const [x, y] = this.view.locate(event);
    this._begin(x, y, event.pointerId);
  }

  _begin(x, y, pointer) {
    const {
      work: { map, about },
      tool,
      floating,
    } = this;
    const at = [Math.floor(x), Math.floor(y)];
    if (tool === "move" || floating.piece) {
      if (!floating.press(x, y) && !floating.lift(...at)) floating.putDown();
      else if (!floating.grasp) floating.press(x, y);
      this.action = { drag: true, pointer };
    } else if (BRUSHES.includes(tool)) {
      const stroke = new Stroke(map, settings.size, this._label(), tool === "restore" ? about.first : null);
      stroke.to(x, y);
      this.action = { stroke, pointer };
      this.work.changed(false);
    } else if (tool === "fill") {
      if (fill(map, ...at, this._label())) this.work.changed();
      this.action = { pointer };
    } else {
      this.action = { points: [[x, y]], tool, pointer };
    }
  }

  _move(event) {
    if (this.touches.has(event.pointerId) && this._pinch(event)) return;
    const [x, y] = this.view.locate(event);
    this.last = [x, y];
    this.cursor = null;
    this.alt = event.altKey;
    const { action } = this;
    if (action && action.pointer === event.pointerId) {
      if (action.pan) {
        this.view.pan(event.clientX - action.pan[0], event.clientY - action.pan[1]);
        action.pan = [event.clientX, event.clientY];
      } else if (action.drag) this.floating.drag(x, y, event.shiftKey);
      else {
        // Synthetic events have an empty list.
        const all = event.getCoalescedEvents?.() ?? [];
        for (const each of all.length ? all : [event]) this._on(...this.view.locate(each));
        if (action.stroke) this.work.changed(false);
      }
    }
    this.showPointer();
  }

  _on(x, y) {
    const { action } = this;
    if (action.stroke) action.stroke.to(x, y);
    else if (action.points) {
      if (action.tool === "box") action.points = [action.points[0], [x, y]];
      else action.points.push([x, y]);
      this._sketch();
    }
  }

  _sketch() {
    const { points, tool } = this.action;
    if (tool === "box") {
      const [left, right] = this._ends(0),
        [top, bottom] = this._ends(1);
      this.view.sketch = { box: [left, top, right + 1 - left, bottom + 1 - top] };
    } else this.view.sketch = { points };
    this.view.draw();
  }

  // First and last pixel of a box along an axis.
  _ends(axis) {
    const { points } = this.action;
    return [points[0][axis], points.at(-1)[axis]].map(Math.floor).sort((a, b) => a - b);
  }

  _up(event) {
    this.touches.delete(event.pointerId);
    const { action } = this;
    if (action?.pointer === event.pointerId) this._finish(true);
    if (event.pointerType === "touch") this._leave();
  }

  _cancel(event) {
    this.touches.delete(event.pointerId);
    if (this.action?.pointer === event.pointerId) this.cancel();
  }

  _finish(done) {
    const {
      action,
      work: { map },
    } = this;
    let changed = false;
    if (done && action.stroke) changed = action.stroke.end();
    if (done && action.points) {
      if (action.tool === "lasso") changed = lasso(map, action.points, this._label());
      else {
        const [left, right] = this._ends(0),
          [top, bottom] = this._ends(1);
        changed = box(map, left, top, right, bottom, this._label());
      }
    }
    if (action.drag) this.floating.release();
    this.action = null;
    this.view.sketch = null;
    if (changed || !done) this.work.changed(changed);
    this.showPointer();
  }

  // A second finger: what the first began is undone, and both pan and zoom. A third does nothing.
  _touch(event) {
    this.touches.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.touches.size < 2) return false;
    if (this.action && !this.action.drag) this.cancel();
    event.preventDefault();
    return true;
  }

  _pinch(event) {
    if (this.touches.size !== 2) {
      this.touches.set(event.pointerId, [event.clientX, event.clientY]);
      return this.touches.size > 2;
    }
    const measure = () => {
      const [[ax, ay], [bx, by]] = [...this.touches.values()];
      return { x: (ax + bx) / 2, y: (ay + by) / 2, apart: Math.hypot(ax - bx, ay - by) || 1 };
    };
    const before = measure();
    this.touches.set(event.pointerId, [event.clientX, event.clientY]);
    const after = measure();
    this.view.pan(after.x - before.x, after.y - before.y);
    this.view.zoomBy(after.apart / before.apart, this.view.inView({ clientX: after.x, clientY: after.y }));
    this.floating.refresh();
    return true;
  }

  _leave() {
    if (this.action) return;
    this.last = null;
    this.cursor = null;
    this.showPointer();
  }

  _wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    const pinch = event.ctrlKey ? 6 : 1; // a touchpad's pinch comes as small turns of the wheel with Ctrl
    this.view.zoomBy(Math.exp(-event.deltaY * lines * pinch * WHEEL), this.view.inView(event));
    this.floating.refresh();
  }

  /** Show the brush, a cross, or the hand, where the pointer or the keyboard is. */
  showPointer() {
    const { canvas } = this.view,
      at = this.cursor ?? this.last,
      brush = BRUSHES.includes(this.tool);
    const plain = this.tool === "move" || this.floating.piece !== null;
    canvas.classList.toggle("hand", this.space);
    canvas.classList.toggle("point", plain && !this.space);
    this.view.pointer =
      at && !this.space && (!plain || this.cursor)
        ? { x: at[0], y: at[1], diameter: brush && !plain ? settings.size : 0 }
        : null;
    this.view.draw();
    this.onmove?.(at);
  }

  // Arrow keys move the brush or a floating part, Enter paints; what has no use for a key leaves it to keys.js.
  _key(event) {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!step && event.key !== "Enter")) return;
    const {
      floating,
      work: { map },
    } = this;
    if (!floating.piece && (!this.typed || (event.key === "Enter" && !this.cursor))) return;
    event.preventDefault();
    event.stopPropagation();
    const far = event.shiftKey ? 10 : 1;
    if (floating.piece) {
      if (event.key === "Enter") floating.putDown();
      else floating.change({ x: floating.piece.x + step[0] * far, y: floating.piece.y + step[1] * far });
    } else if (step) {
      const [x, y] = this.cursor ?? this.last ?? [Math.floor(map.width / 2) + 0.5, Math.floor(map.height / 2) + 0.5];
      this.cursor = [x + step[0] * far, y + step[1] * far];
    } else if (!this.action) {
      this._begin(...this.cursor, "keyboard");
      if (this.action?.tool !== "box") this._finish(true);
    } else if (this.action.pointer === "keyboard") {
      this._on(...this.cursor);
      this._finish(true);
    }
    this.showPointer();
  }
}
