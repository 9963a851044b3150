// Keys of the page, in one table: what acts, and what the help shows.

import { byId, h } from "./dom.js";

/** [keys as shown, meaning]; the rows of the help. */
const HELP = [
  ["1 – 9", "choose a class"],
  ["B E G L X", "brush, eraser, fill, lasso, box"],
  ["V", "move a part"],
  ["R", "restore what was there"],
  ["[ ]", "brush size"],
  ["Alt", "erase with any tool"],
  ["Ctrl-Z, Ctrl-Y", "undo, redo"],
  ["Space", "drag the view"],
  ["Wheel, + −", "zoom"],
  ["0", "fit"],
  ["O", "image, overlay, outline, labels"],
  ["C", "source or result below the mask"],
  ["S, Ctrl-Enter", "sample"],
  ["N", "sample with new seeds"],
  ["← →", "candidate before, after"],
  ["A", "accept"],
  ["Delete", "discard; delete a lifted part"],
  ["D", "show differences"],
  ["Enter", "put a part down"],
  ["H U", "flip a part"],
  ["Esc", "cancel; stop"],
  ["Arrows, Enter", "on the mask (by Tab): move the brush, paint"],
];

/** Let keys act: `actions` by name; held(key, down) for Space and Alt; over(): is the pointer on the mask? */
export class Keys {
  constructor(actions, held, over) {
    Object.assign(this, { actions, held, over });
    byId("key-list").append(...HELP.map(([keys, meaning]) => h("p", {}, h("span", {}, meaning), h("kbd", {}, keys))));
    addEventListener("keydown", event => this._down(event));
    addEventListener("keyup", event => {
      if (event.key === " " && over()) event.preventDefault(); // the button that has the focus
      if (event.key === " ") held("space", false);
      if (event.key === "Alt") held("alt", false);
    });
    addEventListener("blur", () => {
      held("space", false);
      held("alt", false);
    });
  }

  // What is written into keeps its keys; a button its Enter and Space, a slider its arrows.
  _taken(event) {
    const { target, key } = event,
      tag = target.tagName;
    if (byId("keys").open) return true;
    if (key === " " && tag === "BUTTON" && this.over()) return false;
    if (tag === "SELECT" || (tag === "INPUT" && !["checkbox", "range"].includes(target.type))) return key !== "Escape";
    if (tag === "INPUT") return [" ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(key);
    return ["BUTTON", "SUMMARY"].includes(tag) && ["Enter", " "].includes(key);
  }

  _name(event) {
    const { key, ctrlKey, metaKey, shiftKey } = event;
    const graph = event.getModifierState("AltGraph"); // which some keyboards need for a bracket; it comes with Ctrl and Alt
    const altKey = event.altKey && !graph;
    const control = (ctrlKey || metaKey) && !graph,
      letter = key.length === 1 ? key.toLowerCase() : key;
    if (control) return { z: shiftKey ? "redo" : "undo", y: "redo", Enter: "sample" }[letter];
    if (altKey) return undefined;
    if (/^[1-9]$/.test(key)) return `class-${key}`;
    return {
      b: "tool-brush",
      e: "tool-eraser",
      g: "tool-fill",
      l: "tool-lasso",
      x: "tool-box",
      v: "tool-move",
      r: "tool-restore",
      "[": "smaller",
      "]": "larger",
      "+": "zoom-in",
      "=": "zoom-in",
      "-": "zoom-out",
      0: "fit",
      o: "mode",
      c: "under",
      s: "sample",
      n: "reroll",
      ArrowLeft: "previous",
      ArrowRight: "next",
      a: "accept",
      Delete: "delete",
      Backspace: "delete",
      d: "differences",
      Enter: "enter",
      h: "flip-x",
      u: "flip-y",
      Escape: "escape",
      "?": "help",
    }[letter];
  }

  _down(event) {
    if (!event.key || event.isComposing || this._taken(event)) return; // a browser that fills in a field names no key
    if (event.key === "Alt") {
      this.held("alt", true);
      if (this.over()) event.preventDefault(); // it would open the browser's menu
    }
    if (event.key === " " && !event.ctrlKey) {
      this.held("space", true);
      event.preventDefault();
      return;
    }
    const name = this._name(event);
    const [group, value] = name?.startsWith("class-") || name?.startsWith("tool-") ? name.split("-") : [name];
    const action = this.actions[group];
    if (action && action(value) !== false) event.preventDefault();
  }
}
