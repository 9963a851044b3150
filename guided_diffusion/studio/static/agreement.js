// Does a segmenter find in a candidate what was painted? Its IoU by class, beside that of real images.

import { h, swatch } from "./dom.js";
import { paintMask } from "./paint.js";

const DIFFERENT = "#ff2bd6";

/** A share as text. */
export const percent = value => (value === undefined || value === null ? "–" : `${(100 * value).toFixed(0)} %`);

/** Rows of a table for image j of a draw; `shown`: are differing pixels, which ontoggle() changes. */
export function agreementTable(run, draw, j, shown, ontoggle) {
  const found = draw.agreement.get(j);
  const missing = run.missing.find(({ what }) => what === "judge");
  if (!found) return missing ? [h("p", { class: "muted" }, `No agreement: ${missing.why}.`)] : [];
  const real = draw.real ?? { classes: {} };
  const rows = Object.entries(found.classes).map(([name, value]) => {
    const color = run.classes.find(each => each.name === name)?.color;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, ...(color ? [swatch(color)] : []), name),
      h("td", {}, percent(value)),
      h("td", { class: "muted" }, percent(real.classes?.[name])),
    );
  });
  const box = h("input", { type: "checkbox", id: "differences", checked: shown, onchange: ontoggle });
  return [
    h(
      "div",
      { class: "head", title: "How far a segmenter sees in the image what the mask says" },
      h("h3", {}, "Agreement"),
      h(
        "label",
        { class: "check", title: "Pixels in which the segmenter sees another class (D)" },
        box,
        " Differences",
      ),
    ),
    h(
      "table",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "IoU"),
        h("th", { scope: "col" }, "here"),
        h("th", { scope: "col" }, "real images"),
      ),
      ...rows,
      h(
        "tr",
        { class: "mean" },
        h("th", { scope: "row" }, "Mean"),
        h("td", {}, percent(found.mean)),
        h("td", { class: "muted" }, percent(real.mean)),
      ),
    ),
  ];
}

/** A canvas that marks the pixels in which the segmenter sees another label than was painted. */
export function differences(draw, { data, width, height }, run) {
  const mask = Uint8Array.from(data, (label, at) => Number(draw.labels[at] !== label && draw.labels[at] !== run.null));
  const canvas = h("canvas", { class: "differences" });
  paintMask(canvas, mask, width, height, DIFFERENT, 170);
  canvas.different = mask.reduce((sum, value) => sum + value, 0);
  return canvas;
}
