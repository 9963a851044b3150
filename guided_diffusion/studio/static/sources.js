// Where a mask begins: pairs, good images, the shelf of parts; and what was kept so far.

import { getJson, getLabels, getPicture, remove } from "./api.js";
import { attempt, byId, choose, h, roving, say } from "./dom.js";
import { paintMask } from "./paint.js";
import { remember, settings } from "./settings.js";

const AT_ONCE = 6; // thumbnails asked for at a time
const SHOWN = 10; // letters of a name
const UNDO = "Take back: image and mask go to the folder's .trash";

// Names differ at their ends.
const short = name => (name.length > SHOWN ? `…${name.slice(1 - SHOWN)}` : name);

export class Sources {
  constructor(run, work, floating, onpart, ontaken) {
    Object.assign(this, { run, work, floating, onpart, ontaken });
    Object.assign(this, { page: 0, pictures: new Map(), queue: [], loading: 0, asked: 0 });
    this.color = new Map(run.classes.map(({ index, color }) => [index, color]));
    this.named = new Map(run.classes.map(({ index, name }) => [index, name]));
    this.rove = roving(byId("strip"));
    roving(byId("source-tabs"));
    byId("split").append(
      ...run.splits.map(({ name, count }) => h("option", { value: name, textContent: `${name} (${count})` })),
    );
    if (run.splits.some(({ name }) => name === settings.split)) byId("split").value = settings.split;
    byId("split").addEventListener("change", () => {
      remember({ split: byId("split").value });
      this.show(0);
    });
    for (const tab of byId("source-tabs").children) {
      tab.addEventListener("click", () => {
        remember({ source: tab.dataset.source });
        this.show(0);
      });
    }
    byId("empty").addEventListener("click", () => {
      work.beginEmpty();
      this._mark();
    });
    byId("page-back").addEventListener("click", () => this.show(this.page - 1));
    byId("page-on").addEventListener("click", () => this.show(this.page + 1));
    work.addEventListener("begin", () => this._mark());
    // Thumbnails are asked for when they come into sight.
    this.watcher = new IntersectionObserver(
      entries => {
        for (const { isIntersecting, target } of entries) if (isIntersecting) this._want(target);
      },
      { root: byId("strip"), rootMargin: "0px 400px" },
    );
    this.accepted(run.accepted);
  }

  /** Say how many pairs were kept. */
  accepted(count) {
    this.count = count;
    byId("accepted-count").textContent = count;
  }

  /** Another pair was kept. */
  async refresh() {
    const { count } = await getJson("/api/accepted?page=0");
    this.accepted(count);
    if (settings.source === "accepted") this.show(0);
  }

  /** Show a page of the chosen source. */
  async show(page = this.page) {
    const asked = ++this.asked,
      { source } = settings;
    choose(byId("source-tabs"), "source", source, "aria-selected");
    const split = byId("split").value;
    byId("split").hidden = source !== "pairs" || !split;
    if (source === "pairs" && !split) return this._fill([], { count: 0, page_size: 1 }, source);
    const query =
      source === "pairs" ? `/api/pairs?split=${encodeURIComponent(split)}&page=${page}` : `/api/${source}?page=${page}`;
    const listed = await attempt(() => getJson(query));
    if (!listed || asked !== this.asked) return;
    this.page = page;
    const tiles = listed[source].map(item => this[`_${source}`](item, split));
    return this._fill(tiles, listed, source);
  }

  _fill(tiles, { count, page_size: size }, source) {
    this.watcher.disconnect();
    this.queue = [];
    byId("strip").replaceChildren(...(tiles.length ? tiles : [h("p", {}, this._nothing(source))]));
    byId("strip").scrollLeft = 0;
    for (const tile of tiles) this.watcher.observe(tile.querySelector(".thumb"));
    const { page } = this,
      pages = Math.max(1, Math.ceil(count / size));
    byId("source-count").textContent = pages > 1 ? `${page + 1} / ${pages}` : `${count}`;
    byId("page-back").disabled = page === 0;
    byId("page-on").disabled = page + 1 >= pages;
    for (const id of ["page-back", "page-on"]) byId(id).hidden = pages === 1;
    this._mark();
  }

  _nothing(source) {
    const what = { goods: ["goods", "inpaint"], pairs: ["data"], parts: ["data"] }[source] ?? [];
    const why = this.run.missing.find(each => what.includes(each.what))?.why;
    return (
      why ??
      (source === "accepted"
        ? "Nothing is kept yet. Accept a candidate, and the pair appears here."
        : "There is nothing here.")
    );
  }

  _tile(name, picture, given, onclick, ...more) {
    const button = h(
      "button",
      { type: "button", title: name, onclick, "aria-pressed": "false", ...given },
      picture,
      h("span", { class: "name" }, short(name)),
    );
    return h("div", { class: "tile" }, button, ...more);
  }

  _picture(load, key) {
    const smooth = Math.max(...this.run.size) > 96 ? " smooth" : "";
    return Object.assign(h("img", { class: `thumb${smooth}`, alt: "" }), { load, key });
  }

  _pairs({ index, name, classes }, split) {
    const dots = h(
      "span",
      { class: "dots", "aria-hidden": "true" },
      ...(classes ?? [])
        .filter(each => each !== this.work.background)
        .slice(0, 8)
        .map(each => {
          const dot = h("i");
          dot.style.backgroundColor = this.color.get(each);
          return dot;
        }),
    );
    const path = `/api/pairs/${split}/${index}/image`;
    const told = classes
      ? `${name}: ${classes.map(each => this.named.get(each)).join(", ")}`
      : `${name}, which cannot be read`;
    const tile = this._tile(
      name,
      this._picture(() => getPicture(path), path),
      { title: told, "data-pair": `${split}/${index}` },
      () => attempt(() => this.work.beginPair(split, index, name)),
    );
    tile.firstChild.append(dots);
    return tile;
  }

  _goods({ index, name, size }) {
    const path = `/api/goods/${index}/image`,
      title = size ? `${name}, ${size[1]} x ${size[0]} px` : `${name}, which cannot be read`;
    return this._tile(
      name,
      this._picture(() => getPicture(path), path),
      { "data-good": String(index), title },
      () => attempt(() => this.work.beginGood(index, name)),
    );
  }

  _parts({ index, pair, class: label, size: [height, width] }) {
    const canvas = h("canvas", { class: "thumb", width: 1, height: 1 });
    const path = `/api/parts/${index}`,
      name = this.named.get(label) ?? String(label);
    canvas.show = async () => {
      const part = await getLabels(path);
      paintMask(canvas, part.data, part.width, part.height, this.color.get(label) ?? "#808080");
    };
    return this._tile(
      name,
      canvas,
      { title: `${name}, ${width} x ${height} px: put it onto the mask`, "aria-pressed": null },
      () =>
        attempt(async () => {
          const part = await getLabels(path);
          this.onpart();
          this.floating.bring(part.data, part.width, part.height, label, pair);
        }),
    );
  }

  _accepted({ name }) {
    const path = `/api/accepted/${encodeURIComponent(name)}`;
    const back = h(
      "button",
      {
        type: "button",
        class: "remove",
        title: UNDO,
        "aria-label": `Take back ${name}`,
        onclick: () =>
          attempt(async () => {
            await remove(path);
            this.ontaken(name);
            say(`${name} lies in the folder's .trash.`);
            await this.refresh();
          }),
      },
      "×",
    );
    return this._tile(
      name,
      this._picture(() => getPicture(`${path}/image`), path),
      { "aria-pressed": null },
      () => say(`${name}: in ${this.run.results_path}`),
      back,
    );
  }

  // Mark the tile that the mask came from.
  _mark() {
    const { kind, base } = this.work.about;
    const at = kind === "pair" ? `${base.split}/${base.index}` : kind === "good" ? String(base.good) : null;
    for (const button of byId("strip").querySelectorAll("[data-pair], [data-good]")) {
      const chosen = at !== null && button.dataset[kind] === at;
      button.setAttribute("aria-pressed", chosen);
    }
    this.rove();
  }

  _want(thumb) {
    this.watcher.unobserve(thumb);
    this.queue.push(thumb);
    this._next();
  }

  async _next() {
    if (this.loading >= AT_ONCE || !this.queue.length) return;
    const thumb = this.queue.shift();
    this.loading++;
    try {
      if (thumb.show) await thumb.show();
      else thumb.src = this.pictures.get(thumb.key) ?? (await this._load(thumb));
    } catch {
      thumb.alt = "no picture"; // one that cannot be read
    }
    this.loading--;
    this._next();
  }

  async _load(thumb) {
    const source = await thumb.load();
    this.pictures.set(thumb.key, source);
    return source;
  }
}
