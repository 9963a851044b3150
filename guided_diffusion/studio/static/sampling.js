// The panel that asks for images: how many, steps, guidance, after every stroke or on demand; progress and stop.

import { attempt, byId, h, say } from "./dom.js";
import { keptInTab, keepInTab, remember, settings } from "./settings.js";

const COUNTS = [1, 2, 4, 6, 9, 16];
const PAUSE = 250; // ms after a stroke, in which another may begin

export class Sampling {
  constructor(run, work, draws, floating, tools) {
    Object.assign(this, { run, work, draws, floating, tools });
    this.seed = keptInTab("seed") ?? run.sampler.seed ?? 0;
    this._fields();
    byId("sample").addEventListener("click", () => this.sample());
    byId("reroll").addEventListener("click", () => this.reroll());
    byId("stop").addEventListener("click", () => this.stop());
    byId("auto").addEventListener("change", ({ target }) => remember({ auto: target.checked }));
    byId("keep").addEventListener("change", ({ target }) => {
      remember({ keep: target.checked });
      this.later();
    });
    draws.addEventListener("change", () => this._progress());
    work.addEventListener("begin", () => this._about());
    work.addEventListener("change", () => {
      clearTimeout(this.waiting);
      if (work.finished && work.edited) this.later();
    });
  }

  _fields() {
    const { sampler, limits, conditional } = this.run;
    byId("count").append(
      ...COUNTS.filter(count => count <= limits.count).map(count =>
        h("option", { value: count, textContent: String(count) }),
      ),
    );
    byId("count").value = String(Math.min(settings.count, limits.count));
    byId("sampler").append(...sampler.choices.map(name => h("option", { value: name, textContent: name })));
    byId("sampler").value = sampler.sampler;
    Object.assign(byId("steps"), { value: sampler.steps ?? "", max: limits.steps });
    byId("guidance").value = sampler.s ?? 1;
    byId("guidance").disabled = !sampler.guided;
    byId("guidance").title = sampler.guided
      ? "1: none; higher: closer to the mask, with more contrast"
      : "Needs a network that was trained with drop_rate above 0";
    byId("seed").value = this.seed;
    byId("auto").checked = settings.auto;
    byId("auto-text").textContent = `After every stroke, in ${sampler.quick_steps} steps`;
    byId("keep").checked = settings.keep;
    byId("settings").open = settings.settingsOpen;
    byId("settings").addEventListener("toggle", () => remember({ settingsOpen: byId("settings").open }));
    for (const id of ["steps", "guidance", "sampler", "seed", "count"]) {
      byId(id).addEventListener("change", () => this._changed());
    }
    if (!conditional) byId("sample").title = "This network takes no mask";
    this._changed();
  }

  _changed() {
    remember({ count: Number(byId("count").value) });
    const seed = Number(byId("seed").value);
    if (Number.isSafeInteger(seed) && seed >= 0) this.seed = seed;
    keepInTab("seed", this.seed);
    const guidance = this.run.sampler.guided ? `, guidance ${byId("guidance").value}` : "";
    byId("settings-line").textContent = `${byId("steps").value} steps${guidance}, seed ${this.seed}`;
    this._about();
  }

  _about() {
    const { about } = this.work;
    byId("keep-label").hidden = !(this.run.inpaint && about.kind === "pair");
    const count = Number(byId("count").value);
    byId("sample").textContent = count === 1 ? "Sample" : `Sample ${count}`;
  }

  // The image of which all but the hole is kept.
  _base() {
    const { kind, base } = this.work.about;
    if (!this.run.inpaint || !base) return null;
    return kind === "good" || settings.keep ? base : null;
  }

  _head(quick) {
    const number = id => (byId(id).value === "" ? null : Number(byId(id).value));
    const { map, about, edited } = this.work,
      { sampler } = this.run;
    return {
      size: [map.height, map.width],
      count: Number(byId("count").value),
      seed: this.seed,
      steps: quick ? sampler.quick_steps : number("steps"),
      s: sampler.guided ? number("guidance") : null,
      sampler: byId("sampler").value,
      start: about.start,
      edited,
      base: this._base(),
      parts: map.parts,
    };
  }

  /** Can anything be drawn? A good image as it is has nothing to be painted. */
  get _possible() {
    return !(this._base() && !this.work.edited);
  }

  /** Sample with few steps soon, unless another stroke begins. */
  later() {
    clearTimeout(this.waiting);
    if (!settings.auto || !this._possible) return;
    this.waiting = setTimeout(() => {
      if (!this.tools.busy && !this.floating.piece) this.sample(true);
    }, PAUSE);
  }

  /** Sample the mask as it is now. */
  async sample(quick = false) {
    clearTimeout(this.waiting);
    this.floating.putDown();
    clearTimeout(this.waiting);
    if (!this._possible) {
      say("Paint or drop a defect first: all of this image is kept but what your mask changes.");
      return;
    }
    await attempt(() => this.draws.start(this._head(quick), this.work.map.data, quick));
  }

  /** The same with other seeds. */
  reroll() {
    this.seed += 1;
    byId("seed").value = this.seed;
    this._changed();
    return this.sample();
  }

  /** Stop what runs; does something run? */
  stop() {
    const running = this.draws.list.some(draw => draw.running);
    if (running) attempt(() => this.draws.stop());
    return running;
  }

  _progress() {
    const draw = this.draws.list.find(({ running }) => running);
    byId("progress").hidden = !draw;
    const last = this.draws.current;
    if (last?.state === "failed" && !last.said) {
      last.said = true;
      say(last.line, true);
    }
    if (!draw) return;
    const { state, done, total } = draw;
    byId("bar").value = total ? done / total : 0;
    byId("progress-text").textContent =
      state === "stopping"
        ? "Stopping…"
        : state === "queued"
          ? this.run.loading
            ? "Loading the model…"
            : "Waiting…"
          : `${done} of ${total}`;
    byId("stop").disabled = state === "stopping";
  }
}
