// The training of this run as it goes on, in whatever process: state, curves, previews, log.

import { follow, getPicture } from "./api.js";
import { curve } from "./curve.js";
import { byId, h, say } from "./dom.js";

const LINES = 400; // of the log that are kept
const PREVIEWS = 6;
const AXIS = ["step", "epoch"];

export class Training {
  constructor() {
    Object.assign(this, { rows: [], lines: [], previews: new Map(), names: [] });
    byId("curve-key").addEventListener("change", () => this._curve());
    this._stayAtEnd(byId("log"));
  }

  /** Read what comes, for as long as the page is open. */
  start() {
    follow("/api/training/events", event => {
      if (event.type === "state") this._state(event);
      else if (event.type === "metrics") this._metrics(event);
      else if (event.type === "log") this._log(event.lines);
      else if (event.type === "previews") this._previews(event.names);
    });
  }

  // The newest lines are in sight unless somebody scrolls back; also when the view is shown later.
  _stayAtEnd(place) {
    this.atEnd = true;
    place.addEventListener("scroll", () => {
      if (place.clientHeight) this.atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 30;
    });
    new ResizeObserver(() => {
      if (this.atEnd) place.scrollTop = place.scrollHeight;
    }).observe(place);
  }

  _state({ running, what, name }) {
    const line = running ? `${what || "A training"} is running in ${name}.` : `No training is running in ${name}.`;
    byId("training-state").textContent = line;
    byId("tab-training").classList.toggle("running", running);
    byId("tab-training").title = line;
    if (running) say(line);
  }

  _metrics({ rows, reset }) {
    // A stream that is read again, or a training that was resumed, begins at the start.
    if (reset) this.rows = [];
    this.rows.push(...rows);
    const keys = [
      ...new Set(
        this.rows.flatMap(row => Object.keys(row).filter(key => typeof row[key] === "number" && !AXIS.includes(key))),
      ),
    ];
    const select = byId("curve-key");
    if (select.options.length !== keys.length) {
      const chosen = select.value;
      select.replaceChildren(...keys.map(key => h("option", { value: key, textContent: key })));
      select.value = keys.includes(chosen) ? chosen : keys.includes("loss") ? "loss" : (keys[0] ?? "");
    }
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this._curve();
    });
  }

  _curve() {
    const key = byId("curve-key").value;
    const points = this.rows.filter(row => typeof row[key] === "number").map(row => [row.step, row[key]]);
    byId("curve").replaceChildren(curve(points, key));
    const last = this.rows.at(-1);
    byId("curve-last").textContent = last
      ? `step ${last.step}${last.epoch === undefined ? "" : `, epoch ${last.epoch}`}`
      : "";
  }

  _log(lines) {
    const place = byId("log");
    this.lines = [...this.lines, ...lines].slice(-LINES);
    place.textContent = this.lines.join("\n");
    if (this.atEnd) place.scrollTop = place.scrollHeight;
  }

  async _previews(names) {
    this.names = names.slice(-PREVIEWS).reverse();
    for (const name of this.names) {
      if (this.previews.has(name)) continue;
      const source = await getPicture(`/api/training/previews/${encodeURIComponent(name)}`).catch(() => null);
      if (source) this.previews.set(name, source);
    }
    const figures = this.names
      .filter(name => this.previews.has(name))
      .map(name =>
        h("figure", {}, h("img", { src: this.previews.get(name), alt: `Preview ${name}` }), h("figcaption", {}, name)),
      );
    byId("previews").replaceChildren(...(figures.length ? figures : [h("p", { class: "muted" }, "No previews.")]));
  }
}
