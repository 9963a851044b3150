// Draws: images sampled from the mask. The server has them; this keeps what is known of each, across a reload.

import { events, getLabels, getPicture, packLabels, postLabels, remove, unpackLabels } from "./api.js";
import { keepInTab, keptInTab } from "./settings.js";

const KEPT = 8; // draws: older ones are dropped, discarded or not

/** One request: `count` images of the same mask. */
class Draw {
  constructor(given) {
    Object.assign(
      this,
      { images: new Map(), agreement: new Map(), predicted: new Map(), hole: null, real: null, line: "" },
      given,
    );
    this.discarded = new Set(given.discarded);
    this.accepted = new Map(given.accepted);
    this.state = "queued";
    this.done = 0;
    this.total = 0;
  }

  get running() {
    return ["queued", "running", "stopping"].includes(this.state);
  }

  /** Numbers of the images that are there and not discarded. */
  get shown() {
    return [...this.images.keys()].filter(j => !this.discarded.has(j)).sort((a, b) => a - b);
  }

  kept() {
    const { id, head, quick, packed, discarded, accepted } = this;
    return { id, head, quick, packed, discarded: [...discarded], accepted: [...accepted] };
  }
}

/** All draws, the newest first. Tells by "change" (list or progress), "image", "end" and "fail". */
export class Draws extends EventTarget {
  constructor(type) {
    super();
    Object.assign(this, { type, list: [], stops: new Map(), asked: 0 });
  }

  get current() {
    return this.list[0] ?? null;
  }

  /** Ask for images of `labels`; what runs is cancelled by the server. */
  async start(head, data, quick) {
    const asked = ++this.asked,
      labels = data.slice();
    const { id } = await postLabels("/api/draws", head, labels);
    for (const draw of this.list) {
      if (draw.running) draw.state = "cancelled";
      this.stops.get(draw.id)?.abort();
    }
    if (asked !== this.asked) return null; // another was asked for meanwhile
    const draw = new Draw({ id, head, quick, labels, packed: await packLabels(labels) });
    this.list = this.list.filter(({ shown }) => shown.length);
    this.list.unshift(draw);
    this._forget();
    this._keep();
    this._follow(draw);
    return draw;
  }

  /** Stop what runs. */
  async stop() {
    const draw = this.list.find(({ running }) => running);
    if (!draw) return;
    draw.state = "stopping";
    this._tell("change");
    await remove(`/api/draws/${draw.id}`);
  }

  discard(draw, j) {
    draw.discarded.add(j);
    this._keep();
    this._tell("change");
  }

  accept(draw, j, name) {
    draw.accepted.set(j, name);
    this._keep();
    this._tell("change");
  }

  /** A pair was taken back: its image is a candidate like the others again. */
  takenBack(name) {
    for (const { accepted } of this.list) {
      for (const [j, kept] of accepted) if (kept === name) accepted.delete(j);
    }
    this._keep();
    this._tell("change");
  }

  /** Take up the draws that were there before the page was reloaded. */
  async goOn() {
    for (const given of keptInTab("draws") ?? []) {
      const draw = new Draw(given);
      draw.labels = draw.packed ? await unpackLabels(this.type, draw.packed).catch(() => null) : null;
      this.list.push(draw);
    }
    for (const draw of this.list) this._follow(draw);
  }

  /** Labels that the segmenter sees in an image, or null. */
  async predictedOf(draw, j) {
    if (!draw.predicted.has(j)) {
      draw.predicted.set(
        j,
        getLabels(`/api/draws/${draw.id}/${j}/predicted`).catch(() => null),
      );
    }
    return draw.predicted.get(j);
  }

  async _follow(draw) {
    const stop = new AbortController();
    this.stops.set(draw.id, stop);
    this._tell("change");
    try {
      await events(`/api/draws/${draw.id}/events`, event => this._take(draw, event), stop.signal);
      if (draw.running) draw.state = "cancelled";
    } catch (error) {
      if (error.name !== "AbortError") {
        // The server was started anew, or has dropped the draw: nothing of it is there any more.
        draw.state = "gone";
        if (error.status === 404 || error.status === 410) this.list = this.list.filter(other => other !== draw);
        else Object.assign(draw, { state: "failed", line: error.message });
        this._keep();
      }
    }
    this._tell("change");
  }

  _take(draw, event) {
    const { type } = event;
    if (type === "step")
      Object.assign(draw, {
        state: draw.state === "stopping" ? "stopping" : "running",
        done: event.done,
        total: event.total,
      });
    else if (type === "image") this._fetch(draw, event.j);
    else if (type === "agreement") {
      draw.agreement.set(event.j, { classes: event.classes, mean: event.mean });
      draw.real = event.real ?? draw.real;
    } else if (type === "hole") this._fetchHole(draw);
    else if (type === "done" || type === "cancelled") draw.state = type;
    else if (type === "error") Object.assign(draw, { state: "failed", line: event.line });
    this._tell("change");
    if (type === "done" || type === "cancelled" || type === "error") this._tell("end");
  }

  async _fetch(draw, j) {
    const picture = await getPicture(`/api/draws/${draw.id}/${j}/image`).catch(() => null);
    if (!picture) return;
    if (draw.forgotten) return URL.revokeObjectURL(picture);
    draw.images.set(j, picture);
    this._tell("image");
    return this._tell("change");
  }

  async _fetchHole(draw) {
    draw.hole ??= await getLabels(`/api/draws/${draw.id}/hole`).catch(() => null);
    this._tell("change");
  }

  _forget() {
    for (const draw of this.list.splice(KEPT)) {
      draw.forgotten = true;
      for (const picture of draw.images.values()) URL.revokeObjectURL(picture);
    }
  }

  _keep() {
    keepInTab(
      "draws",
      this.list.map(draw => draw.kept()),
    );
  }

  _tell(name) {
    this.dispatchEvent(new Event(name));
  }
}
