// A curve of a training: every value thin, a running mean thick, as SVG.

import { h, svg } from "./dom.js";

const WIDTH = 640,
  HEIGHT = 260,
  LEFT = 52,
  RIGHT = 10,
  TOP = 10,
  BOTTOM = 30;
const MOST = 1200; // points of a line

// About five round numbers from low to high.
function ticks(low, high) {
  const rough = (high - low) / 5 || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(each => each >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

const short = value => Number(value.toPrecision(4)).toLocaleString("en-US", { maximumSignificantDigits: 4 });

/** Mean of values so far, in which older ones weigh less: over about a fiftieth of them. */
export function smoothed(values) {
  const keep = 1 - 1 / Math.max(1, values.length / 50);
  let sum = 0,
    weight = 0;
  return values.map(value => {
    sum = keep * sum + value;
    weight = keep * weight + 1;
    return sum / weight;
  });
}

function thinned(points) {
  const step = Math.ceil(points.length / MOST);
  return points.filter((_, at) => at % step === 0 || at === points.length - 1);
}

/** The curve of [step, value] points, steps rising; a sentence where there are fewer than two. */
export function curve(points, name) {
  const known = points.filter(([, value]) => Number.isFinite(value));
  if (known.length < 2) return h("p", { class: "muted" }, "No figures yet.");
  const mean = smoothed(known.map(([, value]) => value));
  const sorted = known.map(([, value]) => value).sort((a, b) => a - b);
  // The first values of a training would press all others to the floor.
  const low = Math.min(...mean, sorted[Math.floor(sorted.length * 0.01)]);
  const high = Math.max(mean.at(-1), sorted[Math.floor((sorted.length - 1) * (known.length > 50 ? 0.98 : 1))]);
  const first = known[0][0],
    last = known.at(-1)[0],
    range = high - low || 1;
  const x = step => LEFT + ((WIDTH - LEFT - RIGHT) * (step - first)) / (last - first || 1);
  const y = value => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * Math.min(1, Math.max(0, (value - low) / range));
  const line = (all, kind) =>
    svg("path", {
      class: kind,
      d: `M${thinned(all)
        .map(([step, value]) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`)
        .join("L")}`,
    });
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": `${name} from step ${first} to ${last}: ${short(mean.at(-1))} at the end`,
  });
  for (const value of ticks(low, low + range)) {
    picture.append(
      svg("path", { class: "axis", d: `M${LEFT} ${y(value).toFixed(1)}H${WIDTH - RIGHT}` }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  for (const step of ticks(first, last))
    picture.append(svg("text", { x: x(step), y: HEIGHT - 9, "text-anchor": "middle" }, short(step)));
  picture.append(
    line(known, "raw"),
    line(
      known.map(([step], at) => [step, mean[at]]),
      "smooth",
    ),
  );
  return picture;
}
