// Elements made and found. Text comes from outside only as text: nothing here reads HTML.

/** The element of the page with this id. */
export const byId = id => document.getElementById(id);

/** A new element: properties, on… listeners, data-…, aria-… and role as attributes, then children (text as text). */
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

/** A new element of SVG with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A small square of a class's color. */
export function swatch(color) {
  const element = h("span", { class: "swatch", "aria-hidden": "true" });
  element.style.backgroundColor = color;
  return element;
}

/** Let one element of a group be reached by Tab, the others by arrow keys; `items` are the direct buttons. */
export function roving(group) {
  const items = () =>
    [...group.querySelectorAll("button")].filter(item => !item.disabled && !item.hidden && !item.matches(".remove"));
  group.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = items(),
      at = all.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const next = all[(at + step + all.length) % all.length];
    next.focus();
    if (next.matches('[role="radio"], [role="tab"]')) next.click();
  });
  return () => {
    const all = items();
    const chosen =
      all.find(item => item.matches('[aria-checked="true"], [aria-selected="true"], [aria-pressed="true"]')) ?? all[0];
    for (const item of all) item.tabIndex = item === chosen ? 0 : -1;
  };
}

/** Mark the one element of a group whose data attribute has this value. */
export function choose(group, key, value, attribute = "aria-checked") {
  for (const item of group.querySelectorAll(`[data-${key}]`)) {
    const chosen = item.dataset[key] === String(value);
    item.setAttribute(attribute, chosen);
    item.tabIndex = chosen ? 0 : -1;
  }
}

let clearing;

/** Say something in the line at the top; an error stays until the next message. */
export function say(text, bad = false) {
  const line = byId("message");
  line.textContent = text;
  line.title = text;
  line.classList.toggle("bad", bad);
  clearTimeout(clearing);
  if (text && !bad) clearing = setTimeout(() => say(""), 6000);
}

/** Run something that may fail, and say so in one line; returns what it returns, or null. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
    return null;
  }
}
