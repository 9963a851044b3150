// Batches of samples, each a process of its own: started, watched, stopped, resumed.

import { follow, post, remove } from "./api.js";
import { attempt, byId, h } from "./dom.js";

const STATES = { running: "running", stopping: "stopping…", stopped: "stopped", done: "done", failed: "failed" };

export class Jobs {
  constructor(run) {
    this.jobs = [];
    this.stopping = new Set(); // said at once, before the server says so
    const { sampler, limits } = run;
    byId("job-sampler").append(...sampler.choices.map(name => h("option", { value: name, textContent: name })));
    byId("job-sampler").value = sampler.sampler;
    Object.assign(byId("job-steps"), { value: sampler.steps ?? "", max: limits.steps });
    Object.assign(byId("job-s"), { value: sampler.s ?? 1, disabled: !sampler.guided });
    byId("job-form").addEventListener("submit", event => {
      event.preventDefault();
      this._begin(sampler.guided);
    });
    this._show();
  }

  /** Read what comes, for as long as the page is open. */
  start() {
    follow("/api/jobs/events", event => {
      if (event.type !== "jobs") return;
      this.jobs = event.jobs;
      this._show();
    });
  }

  async _begin(guided) {
    const number = id => (byId(id).value === "" ? null : Number(byId(id).value));
    byId("job-start").disabled = true;
    await attempt(() =>
      post("/api/jobs", {
        num_samples: number("job-count"),
        seed: number("job-seed"),
        steps: number("job-steps"),
        s: guided ? number("job-s") : null,
        sampler: byId("job-sampler").value,
      }),
    );
    byId("job-start").disabled = false;
  }

  _stop(id) {
    this.stopping.add(id);
    this._show();
    attempt(() => remove(`/api/jobs/${id}`));
  }

  _resume(id) {
    this.stopping.delete(id);
    attempt(() => post(`/api/jobs/${id}/resume`));
  }

  _show() {
    const items = this.jobs.map(({ id, state, done, total, line, folder }) => {
      if (state !== "running") this.stopping.delete(id);
      const now = this.stopping.has(id) ? "stopping" : state;
      const button =
        now === "running"
          ? h("button", { onclick: () => this._stop(id) }, "Stop")
          : now === "stopped" || now === "failed"
            ? h("button", { onclick: () => this._resume(id) }, "Resume")
            : null;
      return h(
        "div",
        { class: "job" },
        h(
          "div",
          { class: "row" },
          h("b", {}, STATES[now] ?? now),
          h("span", { class: "number" }, `${done} of ${total}`),
          h("span", { class: "space" }),
          button,
        ),
        h("progress", { max: total || 1, value: done, "aria-label": `Images of ${folder}` }),
        line ? h("p", { class: "line" }, line) : null,
        h("p", { class: "line" }, folder),
      );
    });
    byId("jobs").replaceChildren(...(items.length ? items : [h("p", { class: "muted" }, "No batch was started yet.")]));
  }
}
