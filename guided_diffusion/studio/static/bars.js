// Tools and the bars around the view: edits of the mask, the lifted part, what is shown, zoom, hints.

import { byId, choose, roving, say } from "./dom.js";
import { fillHoles, fillPinholes, PINHOLE, toBoxes } from "./edits.js";
import { pinholes } from "./regions.js";
import { remember, settings } from "./settings.js";

const MODES = ["image", "overlay", "outline", "labels"];
const SIZES = [1, 100]; // of the brush, in pixels of the mask
const PAUSE = 400; // ms after a stroke before pinholes are looked for

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export class Bars {
  constructor(parts) {
    Object.assign(this, parts);
    this._tools();
    this._edits();
    this._pieceBar();
    this._viewBar();
    const { work, draws, candidates } = this;
    work.addEventListener("begin", () => this._begin());
    work.addEventListener("change", () => this._changed());
    work.addEventListener("picture", () => this._under());
    candidates.addEventListener("select", () => this._under());
    candidates.addEventListener("look", () => {
      remember({ under: "result" });
      this._under();
    });
    draws.addEventListener("change", () => this._hole());
    this.tool(settings.tool);
    this.size(settings.size);
    this.mode(settings.mode);
    this._under();
  }

  /** What keys do here, by name. */
  actions() {
    return {
      tool: name => this.tool(name),
      undo: () => this.undo(),
      redo: () => this.redo(),
      smaller: () => this.size(settings.size - this._notch(-1)),
      larger: () => this.size(settings.size + this._notch(1)),
      "zoom-in": () => this.zoom(1.25),
      "zoom-out": () => this.zoom(0.8),
      fit: () => this.view.fit(),
      mode: () => this.mode(MODES[(MODES.indexOf(settings.mode) + 1) % MODES.length]),
      under: () => this.under(settings.under === "source" ? "result" : "source"),
      enter: () => (this.floating.piece ? this.floating.putDown() : false),
      "flip-x": () => this._flip("flipX"),
      "flip-y": () => this._flip("flipY"),
    };
  }

  _notch(way) {
    const size = settings.size + (way < 0 ? -1 : 0);
    return size < 10 ? 1 : size < 30 ? 2 : 5;
  }

  _tools() {
    roving(byId("tools"));
    for (const button of byId("tools").children) button.addEventListener("click", () => this.tool(button.dataset.tool));
    const [low, high] = SIZES;
    Object.assign(byId("size"), { min: low, max: Math.min(high, Math.max(...this.run.size)) });
    byId("size").addEventListener("input", () => this.size(Number(byId("size").value)));
  }

  tool(name) {
    const known = byId("tools").querySelector(`[data-tool="${CSS.escape(name)}"]`) ? name : "brush";
    remember({ tool: known });
    choose(byId("tools"), "tool", known);
    this.tools.chosen();
  }

  size(value) {
    const size = Math.min(Number(byId("size").max), Math.max(SIZES[0], Math.round(value)));
    remember({ size });
    byId("size").value = size;
    byId("size-value").textContent = `${size} px`;
    this.tools.showPointer();
  }

  _edits() {
    const { work, tools, floating } = this,
      { map } = work;
    byId("undo").addEventListener("click", () => this.undo());
    byId("redo").addEventListener("click", () => this.redo());
    const act = (id, change, nothing) =>
      byId(id).addEventListener("click", () => {
        floating.putDown();
        if (change()) work.changed();
        else say(nothing);
      });
    act("fill-holes", () => fillHoles(map, work.label, work.background), "The chosen class encloses no background.");
    act("to-boxes", () => toBoxes(map, [work.background, this.run.null ?? -1]), "Every part is a box already.");
    act("pinholes", () => fillPinholes(map, work.about.first), "");
    byId("start-over").addEventListener("click", () => {
      tools.cancel();
      if (work.edited) work.startOver();
    });
    tools.onmove = at => this._place(at);
  }

  undo() {
    if (!this.tools.cancel()) this.work.undo();
  }

  redo() {
    if (!this.tools.busy && !this.floating.piece) this.work.redo();
  }

  _pieceBar() {
    const { floating } = this;
    // The slider is logarithmic: as far to half as to double the size.
    byId("piece-scale").addEventListener("input", ({ target }) =>
      floating.change({ scale: 2 ** (target.value / 100) }),
    );
    byId("piece-angle").addEventListener("input", ({ target }) => floating.change({ angle: Number(target.value) }));
    byId("flip-x").addEventListener("click", () => this._flip("flipX"));
    byId("flip-y").addEventListener("click", () => this._flip("flipY"));
    byId("piece-drop").addEventListener("click", () => floating.putDown());
    byId("piece-cancel").addEventListener("click", () => floating.cancel());
    byId("piece-delete").addEventListener("click", () => floating.remove());
  }

  _flip(side) {
    if (this.floating.piece) this.floating.change({ [side]: !this.floating.piece[side] });
  }

  /** Show the bar of the part that floats, or the other one. */
  piece(starting) {
    const { piece } = this.floating;
    byId("piece-bar").hidden = !piece;
    byId("edit-bar").hidden = Boolean(piece);
    if (starting) byId("canvas").focus({ preventScroll: true });
    if (!piece) return;
    byId("piece-scale").value = Math.round(100 * Math.log2(piece.scale));
    byId("piece-scale-value").textContent = `${Math.round(100 * piece.scale)} %`;
    byId("piece-angle").value = piece.angle;
    byId("piece-angle-value").textContent = `${piece.angle}°`;
  }

  _viewBar() {
    roving(byId("modes"));
    roving(byId("unders"));
    for (const button of byId("modes").children) button.addEventListener("click", () => this.mode(button.dataset.mode));
    for (const button of byId("unders").children)
      button.addEventListener("click", () => this.under(button.dataset.under));
    byId("opacity").value = settings.opacity;
    byId("opacity").addEventListener("input", ({ target }) => {
      remember({ opacity: Number(target.value) });
      this.mode(settings.mode);
    });
    byId("zoom-in").addEventListener("click", () => this.zoom(1.25));
    byId("zoom-out").addEventListener("click", () => this.zoom(0.8));
    byId("zoom-fit").addEventListener("click", () => this.view.fit());
    this.view.onzoom = () => {
      byId("zoom-fit").textContent = `${Math.round(100 * this.view.zoom)} %`;
    };
  }

  zoom(factor) {
    this.view.zoomBy(factor);
    this.floating.refresh();
  }

  /** Show image, overlay, outline or labels. */
  mode(name) {
    const mode = MODES.includes(name) ? name : "overlay";
    remember({ mode });
    choose(byId("modes"), "mode", mode);
    Object.assign(this.view, { mode, opacity: settings.opacity / 100 });
    this.view.draw();
  }

  /** Show the image that painting began from, or the candidate in hand. */
  under(name) {
    remember({ under: name });
    this._under();
  }

  _under() {
    const { work, candidates, view } = this,
      { result } = candidates,
      { picture } = work;
    const {
      map: { width, height },
    } = work;
    const fits = result && result.naturalWidth === width && result.naturalHeight === height && this._belongs();
    const possible = { source: Boolean(work.about.image), result: Boolean(fits) };
    const shown = possible[settings.under]
      ? settings.under
      : possible.source
        ? "source"
        : possible.result
          ? "result"
          : "source";
    choose(byId("unders"), "under", shown);
    for (const button of byId("unders").children) button.disabled = !possible[button.dataset.under];
    view.picture = shown === "result" && fits ? result : picture;
    this._hole();
    view.draw();
  }

  // Was the candidate in hand drawn from the mask that is shown, edited or not?
  _belongs() {
    const { head } = this.candidates.chosen?.[0] ?? {},
      { kind, start, base } = this.work.about;
    return (
      head !== undefined &&
      same(kind === "good" ? [head.base, head.start] : [head.start], kind === "good" ? [base, start] : [start])
    );
  }

  _hole() {
    const draw = this.candidates.chosen?.[0] ?? this.draws.current;
    this.view.hole = draw?.hole && same(draw.head.base, this.work.about.base) ? draw.hole : null;
    this.view.draw();
  }

  _begin() {
    const { work, view, floating } = this;
    floating.vanish();
    this.view.places = [];
    // On a good image the result is the image with its defect.
    remember({ under: work.about.kind === "good" ? "result" : "source" });
    if (view.shownWidth !== work.map.width || view.shownHeight !== work.map.height) view.fit();
    Object.assign(view, { shownWidth: work.map.width, shownHeight: work.map.height });
  }

  _changed() {
    const { work, view } = this,
      { map, about } = work;
    view.draw();
    byId("undo").disabled = !map.past.length && !map.editing;
    byId("redo").disabled = !map.future.length;
    clearTimeout(this.waiting);
    if (!work.finished) return;
    const { edited } = work;
    byId("start-over").disabled = !edited;
    byId("about").textContent =
      `${about.kind === "pair" ? `${about.start.split} · ` : ""}${about.name}${edited ? " · edited" : ""}`;
    this.waiting = setTimeout(() => this._hint(), PAUSE);
  }

  _hint() {
    const places = pinholes(this.work.map, PINHOLE, this.work.about.first);
    this.view.places = places;
    byId("pinholes").hidden = !places.length;
    byId("pinholes").textContent =
      `${places.length} ${places.length === 1 ? "speck" : "specks"} under ${PINHOLE} px: fill`;
    this.view.draw();
  }

  _place(at) {
    const { map } = this.work;
    const [x, y] = (at ?? [-1, -1]).map(Math.floor);
    const inside = x >= 0 && y >= 0 && x < map.width && y < map.height;
    const name = inside
      ? (this.run.classes.find(({ index }) => index === map.data[y * map.width + x])?.name ?? "no class")
      : "";
    byId("place").textContent = inside ? `${x}, ${y} · ${name}` : `${map.width} × ${map.height}`;
  }
}
