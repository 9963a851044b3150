// The page put together: views, palette, tools, panels, keys.

import { getJson, post, takeToken } from "./api.js";
import { Bars } from "./bars.js";
import { Candidates } from "./candidates.js";
import { attempt, byId, choose, h, roving, say } from "./dom.js";
import { Draws } from "./draws.js";
import { Floating } from "./floating.js";
import { Jobs } from "./jobs.js";
import { Keys } from "./keys.js";
import { Palette } from "./palette.js";
import { Sampling } from "./sampling.js";
import { remember, settings } from "./settings.js";
import { Sources } from "./sources.js";
import { Tools } from "./tools.js";
import { Training } from "./training.js";
import { View } from "./view.js";
import { Work } from "./work.js";

const LOADING = 1000; // ms between questions whether the model is there

function showView(name) {
  remember({ view: name });
  for (const tab of document.querySelectorAll(".tabs [role=tab]")) {
    const chosen = tab.dataset.view === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.dataset.view).hidden = !chosen;
  }
}

function frame(run) {
  byId("run-name").textContent = run.name;
  document.title = `${run.name} – ISDM studio`;
  roving(document.querySelector(".tabs"));
  for (const tab of document.querySelectorAll(".tabs [role=tab]"))
    tab.addEventListener("click", () => showView(tab.dataset.view));
  showView(["paint", "training", "batch"].includes(settings.view) ? settings.view : "paint");
  byId("guide").hidden = settings.guideSeen;
  byId("guide-close").addEventListener("click", () => {
    remember({ guideSeen: true });
    byId("guide").hidden = true;
  });
  byId("help").addEventListener("click", () => byId("keys").showModal());
  byId("report").hidden = run.missing.some(({ what }) => what === "report");
  byId("report").addEventListener("click", () =>
    attempt(async () => {
      const { ticket } = await post("/api/tickets", { what: "report" });
      window.open(`/view/${ticket}`, "_blank", "noopener");
    }),
  );
  const grave = run.missing.filter(({ what }) => what === "data");
  byId("missing").hidden = !grave.length;
  byId("missing").replaceChildren(...grave.map(({ why }) => h("li", {}, h("b", {}, "No real pairs: "), why)));
}

// Ask until the model is loaded: the page is used meanwhile.
async function waitForModel(run) {
  while (run.loading) {
    say("The model is being loaded. You can paint already.");
    await new Promise(resolve => setTimeout(resolve, LOADING));
    const now = await getJson("/api/run").catch(() => null);
    if (now && !now.loading) {
      run.loading = false;
      run.missing = now.missing;
      say("The model is loaded.");
    }
  }
}

async function begin(run, work) {
  if (await work.goOn()) return;
  const split = run.splits.find(({ count }) => count);
  const first = split && (await attempt(() => getJson(`/api/pairs?split=${encodeURIComponent(split.name)}&page=0`)));
  const pairs = first?.pairs ?? [],
    most = Math.max(0, ...pairs.slice(0, 12).map(({ classes }) => classes.length));
  const shown = pairs.find(({ classes }) => classes.length === most); // one on which there is something to see
  if (shown) await attempt(() => work.beginPair(first.split, shown.index, shown.name));
  else work.beginEmpty();
  work.map.forget();
  work.changed();
}

async function start() {
  if (!takeToken()) {
    say("Open the address that the studio printed in its terminal: this one lacks the part after #.", true);
    return;
  }
  const run = await attempt(() => getJson("/api/run"));
  if (!run) return;
  frame(run);
  const work = new Work(run),
    view = new View(byId("canvas"), work),
    draws = new Draws(run.label_type);
  const floating = new Floating(work, view, starting => bars.piece(starting));
  const tools = new Tools(work, view, floating);
  const palette = new Palette(run, work);
  const candidates = new Candidates(run, work, draws);
  const sampling = new Sampling(run, work, draws, floating, tools);
  const bars = new Bars({ run, work, view, floating, tools, draws, candidates });
  const sources = new Sources(
    run,
    work,
    floating,
    () => bars.tool("move"),
    name => draws.takenBack(name),
  );
  candidates.addEventListener("accept", () => attempt(() => sources.refresh()));
  new Training().start();
  new Jobs(run).start();
  new Keys(
    {
      ...bars.actions(),
      class: number => palette.choose(Number(number)),
      sample: () => sampling.sample(),
      reroll: () => sampling.reroll(),
      previous: () => candidates.step(-1),
      next: () => candidates.step(1),
      accept: () => candidates.accept(),
      delete: () => (floating.piece ? floating.remove() : candidates.discard()),
      differences: () => candidates.toggleDifferences(),
      escape: () => tools.cancel() || sampling.stop(),
      help: () => byId("keys").showModal(),
    },
    (name, down) => {
      tools[name] = down;
      tools.showPointer();
    },
    () => tools.over,
  );
  waitForModel(run);
  await Promise.all([begin(run, work), sources.show(0), draws.goOn()]);
  document.body.dataset.ready = "true";
}

choose(byId("source-tabs"), "source", settings.source, "aria-selected");
start();
