// The mask that is being painted: its labels, where it came from, the image below it. Survives a reload of the page.

import { getLabels, getPicture, packLabels, unpackLabels } from "./api.js";
import { LabelMap } from "./labels.js";
import { keepInTab, keptInTab } from "./settings.js";

const PICTURES = 12; // kept of the images looked at last

/** Tells by "change" (labels), "begin" (another mask), "class", and "picture" (the image below). */
export class Work extends EventTarget {
  constructor(run) {
    super();
    this.run = run;
    this.type = run.label_type;
    this.background = run.background ?? 0;
    this.label = (run.classes.find(({ index }) => index !== this.background) ?? run.classes[0])?.index ?? 0;
    this.map = new LabelMap(this.type, run.size[1], run.size[0], this.background);
    this.map.about = this._about({ kind: "empty", name: "Empty mask" });
    this.picture = null;
    this.pictures = new Map();
    this.shown = null;
    this.differs = null;
    this.finished = false; // the last change was the end of a stroke
  }

  get about() {
    return this.map.about;
  }

  /** Is a label not as it was at the start? Known until the next change. */
  get edited() {
    if (this.differs === null) {
      const { data } = this.map,
        { first } = this.about;
      let at = 0;
      while (at < data.length && data[at] === first[at]) at++;
      this.differs = at < data.length;
    }
    return this.differs;
  }

  // What is known of a mask: its labels as they were, where painting began, and the image that may be kept.
  _about(given, first = this.map.data.slice()) {
    return { start: null, base: null, image: null, ...given, first };
  }

  choose(label) {
    this.label = label;
    this._tell("class");
  }

  /** Tell that the labels changed; `finished` at the end of a stroke. */
  changed(finished = true) {
    if (this.map.editing) finished = false;
    this.finished = finished;
    this.differs = null;
    if (this.about !== this.shown) this._begin();
    this._tell("change");
    if (finished) this._keep();
  }

  undo() {
    if (this.map.undo()) this.changed();
  }

  redo() {
    if (this.map.redo()) this.changed();
  }

  /** Begin with a mask of background alone. */
  beginEmpty() {
    const [height, width] = this.run.size;
    const blank = new Uint16Array(width * height).fill(this.background);
    this._load(blank, width, height, { kind: "empty", name: "Empty mask" });
  }

  /** Begin with the mask of a pair. */
  async beginPair(split, index, name) {
    await this._beginAt(Work.pair(split, index, name));
  }

  /** Begin with a good image: its own classes, else background alone. */
  async beginGood(index, name) {
    await this._beginAt(Work.good(index, name));
  }

  async _beginAt(about) {
    const { data, width, height } = await labelsOf(about.base);
    this._load(data, width, height, about);
  }

  /** Begin anew with the mask as it was at the start. */
  startOver() {
    const { first, ...about } = this.about;
    this._load(first, this.map.width, this.map.height, about);
  }

  static pair(split, index, name) {
    const place = { split, index };
    return { kind: "pair", name, start: place, base: place, image: `/api/pairs/${split}/${index}/image` };
  }

  static good(index, name) {
    return { kind: "good", name, base: { good: index }, image: `/api/goods/${index}/image` };
  }

  _load(data, width, height, about) {
    this.map.load(data, width, height);
    this.map.about = this._about(about);
    this.changed();
  }

  _begin() {
    this.shown = this.about;
    this._tell("begin");
    this._showPicture(this.about.image);
  }

  async _showPicture(path) {
    this.picture = this.pictures.get(path) ?? null;
    this._tell("picture");
    if (!path || this.picture) return;
    const image = await loadPicture(path).catch(() => null);
    if (!image) return;
    this.pictures.set(path, image);
    if (this.pictures.size > PICTURES) {
      const [oldest, { src }] = this.pictures.entries().next().value;
      this.pictures.delete(oldest);
      URL.revokeObjectURL(src);
    }
    if (this.about.image !== path) return;
    this.picture = image;
    this._tell("picture");
  }

  _keep() {
    clearTimeout(this.keeping);
    this.keeping = setTimeout(async () => {
      const {
        map,
        type,
        about: { first, ...about },
      } = this;
      const { width, height, parts } = map,
        edited = this.edited;
      const [labels, start] = await Promise.all([packLabels(map.data), packLabels(first)]);
      const { sources } = this.run;
      keepInTab("work", { type, sources, width, height, about, parts, edited, labels, start, label: this.label });
    }, 300);
  }

  /** Go on with what was painted before the page was reloaded; was there something? */
  async goOn() {
    const kept = keptInTab("work");
    if (!kept || kept.type !== this.type) return false;
    // By its number the studio would take another pair for the one that painting began from.
    const { parts = kept.about.parts ?? [] } = kept;
    if ((kept.about.base || parts.length) && kept.sources !== this.run.sources) return false;
    try {
      const [labels, start] = await Promise.all([kept.labels, kept.start].map(text => unpackLabels(this.type, text)));
      // The studio records the file that it reads now, not the one that it was when painting began.
      if (kept.about.base && !isSame((await labelsOf(kept.about.base)).data, start)) return false;
      this._load(start, kept.width, kept.height, kept.about);
      this.map.forget();
      if (kept.edited) {
        const { about } = this;
        this.map.load(labels, kept.width, kept.height, about, parts);
        this.changed();
      }
      if (this.run.classes.some(({ index }) => index === kept.label)) this.choose(kept.label);
      return true;
    } catch {
      return false; // kept by another version of the page
    }
  }

  _tell(name) {
    this.dispatchEvent(new Event(name));
  }
}

/** The mask of what painting begins with, a pair or a good image. */
const labelsOf = ({ good, split, index }) =>
  getLabels(good === undefined ? `/api/pairs/${split}/${index}/labels` : `/api/goods/${good}/labels`);

const isSame = (labels, others) => labels.length === others.length && labels.every((label, i) => label === others[i]);

/** An image of the server that can be drawn. */
export async function loadPicture(path) {
  const image = new Image();
  image.src = await getPicture(path);
  await image.decode();
  return image;
}
