// What was sampled: a grid of candidates beside the mask. Nothing is written until one is accepted.

import { post } from "./api.js";
import { agreementTable, differences, percent } from "./agreement.js";
import { attempt, byId, h, say } from "./dom.js";
import { remember, settings } from "./settings.js";

/** Tells by "select" (another candidate is in hand, its image: .result), "look" (at it in large) and "accept". */
export class Candidates extends EventTarget {
  constructor(run, work, draws) {
    super();
    Object.assign(this, { run, work, draws, chosen: null, result: null });
    byId("accept").addEventListener("click", () => this.accept());
    byId("discard").addEventListener("click", () => this.discard());
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    byId("grid").addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.step(step);
    });
    draws.addEventListener("change", () => this.show());
    this.show();
  }

  /** All candidates that are there: [draw, j], those of the newest draw first. */
  get all() {
    return this.draws.list.flatMap(draw => draw.shown.map(j => [draw, j]));
  }

  get columns() {
    return Math.ceil(Math.sqrt(this.draws.current?.head.count ?? 4));
  }

  _is(draw, j) {
    return this.chosen?.[0] === draw && this.chosen[1] === j;
  }

  choose(draw, j) {
    this.chosen = [draw, j];
    this.show();
  }

  /** Go on to the next candidate, or to another one. */
  step(by) {
    const { all } = this,
      at = all.findIndex(([draw, j]) => this._is(draw, j));
    if (all.length) this.choose(...all[Math.min(all.length - 1, Math.max(0, at + by))]);
  }

  /** Write the candidate in hand as a pair. */
  async accept() {
    if (!this.chosen) return;
    const [draw, j] = this.chosen;
    const written = await attempt(() => post("/api/accept", { draw: draw.id, j }));
    if (!written) return;
    this.draws.accept(draw, j, written.name);
    say(`Kept as ${written.name}.`);
    this.dispatchEvent(new Event("accept"));
  }

  discard() {
    if (!this.chosen) return;
    const [draw, j] = this.chosen,
      { all } = this;
    const at = all.findIndex(each => each[0] === draw && each[1] === j);
    this.chosen = all[at + 1] ?? all[at - 1] ?? null;
    this.draws.discard(draw, j);
  }

  /** Mark or unmark the pixels in which the segmenter sees something else. */
  toggleDifferences() {
    remember({ differences: !settings.differences });
    this.show();
  }

  // The candidate in hand stays; one of an older draw gives way to the same place of the newest.
  _follow() {
    const { current } = this.draws;
    const gone = this.chosen && !this.all.some(([draw, j]) => this._is(draw, j));
    if (gone) this.chosen = null;
    if (current && current !== this.latest && current.shown.length) {
      this.latest = current;
      const j = this.chosen?.[1];
      this.chosen = [current, current.shown.includes(j) ? j : current.shown[0]];
    }
    this.chosen ??= this.all[0] ?? null;
  }

  show() {
    this._follow();
    this._grid();
    this._earlier();
    const at = this.all.findIndex(([draw, j]) => this._is(draw, j));
    const kept = this.chosen?.[0].accepted.get(this.chosen[1]);
    byId("accept").disabled = !this.chosen || kept !== undefined;
    byId("accept").textContent = kept === undefined ? "Accept" : "Kept";
    byId("discard").disabled = !this.chosen;
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at >= this.all.length - 1;
    this._details();
    this._result();
  }

  _grid() {
    const grid = byId("grid"),
      { current } = this.draws;
    grid.style.setProperty("--columns", this.columns);
    if (!current) {
      this._fill(
        grid,
        [],
        this.run.conditional
          ? "Images that follow your mask appear here. Paint something, or press Sample."
          : "Images appear here. Press Sample.",
      );
      return;
    }
    const {
        head: { count },
        images,
        discarded,
      } = current,
      previous = this.draws.list[1];
    const cells = [];
    for (let j = 0; j < count; j++) {
      if (discarded.has(j)) continue;
      const ready = images.get(j),
        source = ready ?? (current.running ? previous?.images.get(j) : undefined);
      if (source || current.running) cells.push({ draw: current, j, source, waiting: !ready });
    }
    this._fill(grid, cells, current.state === "failed" ? current.line : "No candidate is left.");
    grid.setAttribute("aria-activedescendant", grid.querySelector('[aria-selected="true"]')?.id ?? "");
  }

  _earlier() {
    const cells = this.draws.list
      .slice(1)
      .flatMap(draw => draw.shown.map(j => ({ draw, j, source: draw.images.get(j) })));
    byId("earlier-block").hidden = !cells.length;
    this._fill(byId("earlier"), cells);
  }

  // Make the cells anew where something about them changed: pictures that stay do not flicker.
  _fill(place, cells, otherwise = "") {
    const told = cells.map(({ draw, j, source, waiting }) => [
      draw.id,
      j,
      source,
      waiting,
      this._is(draw, j),
      draw.agreement.get(j)?.mean,
      draw.accepted.has(j),
      settings.differences && this._is(draw, j) && draw.overlay?.j === j,
    ]);
    const key = JSON.stringify([told, otherwise]);
    if (place.told === key) return;
    place.told = key;
    const old = new Map([...place.querySelectorAll("img")].map(image => [image.src, image]));
    place.replaceChildren(
      ...(cells.length
        ? cells.map(cell => this._cell(cell, old))
        : [h("p", { class: "invite", role: "option" }, otherwise)]),
    );
  }

  _cell({ draw, j, source, waiting }, old) {
    const mean = draw.agreement.get(j)?.mean,
      kept = draw.accepted.has(j),
      chosen = !waiting && this._is(draw, j);
    const [height, width] = draw.head.size,
      scored = mean !== undefined && mean !== null && !waiting;
    const told = [
      `Candidate ${j + 1}`,
      ...(waiting ? ["not ready"] : []),
      ...(scored ? [`agreement ${percent(mean)}`] : []),
      ...(kept ? ["kept"] : []),
    ];
    const cell = h("div", {
      class: `cell${waiting ? " waiting" : ""}${width > 256 ? " smooth" : ""}`,
      role: "option",
      id: `candidate-${draw.id}-${j}`,
      "aria-label": told.join(", "),
      "aria-selected": String(chosen),
    });
    if (source) cell.append(old.get(source) ?? h("img", { src: source, alt: "", draggable: false }));
    if (chosen && settings.differences && draw.overlay?.j === j) cell.append(draw.overlay.canvas);
    if (scored) cell.append(h("span", { class: "badge" }, percent(mean)));
    if (kept) cell.append(h("span", { class: "badge kept" }, "kept"));
    cell.style.setProperty("--ratio", `${width} / ${height}`);
    if (!waiting) {
      cell.addEventListener("click", () => this.choose(draw, j));
      cell.addEventListener("dblclick", () => this.dispatchEvent(new Event("look")));
    }
    return cell;
  }

  _table(draw, j) {
    const place = byId("agreement");
    const key = JSON.stringify([draw?.id, j, draw?.agreement.get(j), draw?.real, settings.differences]);
    if (place.told === key) return;
    place.told = key;
    const quick = draw?.quick
      ? [h("p", { class: "muted" }, `Drawn in ${draw.head.steps} steps. Sample takes all steps.`)]
      : [];
    const table = draw ? agreementTable(this.run, draw, j, settings.differences, () => this.toggleDifferences()) : [];
    place.replaceChildren(...quick, ...table);
  }

  // Agreement of the candidate in hand, and where the segmenter sees something else.
  _details() {
    const [draw, j] = this.chosen ?? [];
    this._table(draw, j);
    if (!draw?.agreement.has(j) || !draw.labels || !settings.differences || draw.overlay?.j === j) return;
    this.draws.predictedOf(draw, j).then(predicted => {
      if (!predicted || draw.overlay?.j === j) return;
      draw.overlay = { j, canvas: differences(draw, predicted, this.run) };
      if (this._is(draw, j)) this.show();
    });
  }

  async _result() {
    const [draw, j] = this.chosen ?? [];
    const source = draw?.images.get(j) ?? null;
    if (source === this.source) return;
    this.source = source;
    const image = source && Object.assign(new Image(), { src: source });
    await image?.decode().catch(() => null);
    if (this.source !== source) return;
    this.result = image;
    this.dispatchEvent(new Event("select"));
  }
}
