// The classes that can be painted: color, name, key.

import { byId, h, roving, swatch } from "./dom.js";

const MANY = 14; // classes from which on one is looked for by name

export class Palette {
  constructor(run, work) {
    this.work = work;
    const all = [...run.classes];
    if (run.null !== null) all.push({ index: run.null, name: "No class", color: "#808080" });
    this.buttons = all.map(({ index, name, color }, at) =>
      h(
        "button",
        {
          type: "button",
          role: "radio",
          "data-class": String(index),
          title: name,
          onclick: () => work.choose(index),
        },
        swatch(color),
        h("span", {}, name),
        at < 9 ? h("kbd", {}, String(at + 1)) : null,
      ),
    );
    byId("classes").append(...this.buttons);
    this.rove = roving(byId("classes"));
    const filter = byId("class-filter");
    filter.hidden = all.length < MANY;
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const button of this.buttons) button.hidden = !button.title.toLowerCase().includes(wanted);
      this.rove();
    });
    work.addEventListener("class", () => this._mark());
    this._mark();
  }

  /** Choose the class at a place of the list, from 1. */
  choose(place) {
    this.buttons[place - 1]?.click();
  }

  _mark() {
    for (const button of this.buttons) {
      const chosen = Number(button.dataset.class) === this.work.label;
      button.setAttribute("aria-checked", chosen);
      if (chosen) button.scrollIntoView({ block: "nearest" });
    }
    this.rove();
  }
}
