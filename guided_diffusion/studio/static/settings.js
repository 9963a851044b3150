// Settings that are remembered by the browser, and what of a session a reload needs.

const KEY = "isdm-studio";
const STANDARD = {
  tool: "brush",
  size: 6,
  mode: "overlay",
  opacity: 55,
  under: "source",
  count: 4,
  auto: true,
  keep: true,
  guideSeen: false,
  view: "paint",
  source: "pairs",
  split: null,
  settingsOpen: false,
  differences: true,
};

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    // Only what is known and of its type: a page of another version may have written here.
    return Object.fromEntries(
      Object.entries(found).filter(
        ([key, value]) =>
          key in STANDARD &&
          (typeof value === typeof STANDARD[key] || (STANDARD[key] === null && typeof value === "string")),
      ),
    );
  } catch {
    return {};
  }
}

/** Settings by name; write them by remember(). */
export const settings = { ...STANDARD, ...stored() };

/** Change settings and keep them. */
export function remember(changes) {
  Object.assign(settings, changes);
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A browser that stores nothing still paints.
  }
}

/** Keep something until the tab is closed; too large for the browser: nothing is kept. */
export function keepInTab(key, value) {
  try {
    sessionStorage.setItem(`${KEY}-${key}`, JSON.stringify(value));
  } catch {
    sessionStorage.removeItem(`${KEY}-${key}`);
  }
}

/** What the tab kept, or null. */
export function keptInTab(key) {
  try {
    return JSON.parse(sessionStorage.getItem(`${KEY}-${key}`));
  } catch {
    return null;
  }
}
