// The whole story of a mark: what was measured, proposed, decided and done, with every message of it.

import { get } from "./api.js";
import { clean, el, nameOf } from "./dom.js";
import { clock, indent } from "./format.js";
import { link } from "./route.js";
import { placeTip } from "./tip.js";

const dialog = document.getElementById("story");
const WAIT_MS = 120, KEPT = 200, FRESH_MS = 30000, AGAIN_MS = 700, AGAIN_TIMES = 8;
const stories = new Map();
let timer = 0, following = 0;

// A story by its id; an action is found by its domain and time.
async function loadStory({ s, id, d, at }) {
  const key = `${s ?? "live"} ${id}`;
  if (!stories.has(key)) {
    const isAction = !/^.+:\d{16,19}(:[^:]+)?$/.test(id) || (d !== undefined && !id.startsWith(d + ":"));
    const found = await get("story", { source: s, id, ...(isAction ? { domain: d, at } : {}) });
    // Its actions may still be on their way.
    if (Date.now() - found.t < 5000) return found;
    stories.set(key, found);
    if (stories.size > KEPT) stories.delete(stories.keys().next().value);
  }
  return stories.get(key);
}

// Adds explain's words to the tooltip, if it still shows the same mark a moment later.
export function explain(what, place) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    try {
      const found = await loadStory(what);
      if (place.node.number !== place.number) return;
      place.node.append(el("div", { class: "explain" }, ...found.lines.slice(2).map((line) => el("p", { text: clean(line) }))));
      placeTip(place.x, place.y);
    } catch { /* The mark's own words are there already. */ }
  }, WAIT_MS);
}

export function openStory(what) { location.hash = link("story", { s: what.s, id: what.id, d: what.d, at: what.at, back: location.hash.includes("#/story") ? undefined : location.hash }); }

dialog.addEventListener("close", () => { if (location.hash.startsWith("#/story")) location.hash = dialog.back || "#/"; });

export function closeStory() { if (dialog.open) dialog.close(); }

// A decision of this moment gets its actions while somebody reads it.
function followStory(parameters, found, times) {
  clearTimeout(following);
  if (times === 0 || Date.now() - found.t > FRESH_MS || found.links.some((one) => one.kind === "action")) return;
  const hash = location.hash;
  following = setTimeout(async () => {
    const again = await loadStory(parameters).catch(() => null);
    if (location.hash !== hash || !dialog.open) return;
    if (again && again.links.length > found.links.length) await showStory(parameters);
    else followStory(parameters, found, times - 1);
  }, AGAIN_MS);
}

export async function showStory(parameters) {
  const { s, id, d, at, back } = parameters;
  if (back) dialog.back = back;
  clearTimeout(following);
  const close = el("button", { type: "button", "data-does": "close", onclick: () => dialog.close() }, "Close");
  const isNew = !dialog.open;
  if (isNew) {
    dialog.replaceChildren(el("header", {}, el("h2", { id: "story-title", text: "…" }), close));
    dialog.showModal();
  }
  let found;
  try { found = await loadStory({ s, id, d, at }); } catch (error) {
    dialog.replaceChildren(el("header", {}, el("h2", { id: "story-title", text: "There is no such story" }), close), el("p", { class: "name", text: clean(error.message) }));
    return;
  }
  const step = (name, does, to) => el("button", { type: "button", "data-does": does, disabled: !to, onclick: () => { location.hash = link("story", { s, id: to }); } }, name);
  const domain = el("a", { href: link("domain", { s, d: found.domain, at: found.t + 15000 }), onclick: () => { dialog.back = link("domain", { s, d: found.domain, at: found.t + 15000 }); } }, "Show it in the plots of ", nameOf(found.domain));
  const lines = found.lines.map((line) => el(line.startsWith(" ") ? "p" : "b", { text: clean(line.trim()), class: "name" }));
  const links = found.links.map((one) => el("details", { "data-kind": one.kind }, el("summary", {}, el("strong", { text: one.kind + " " }), el("span", { text: clock(one.t) + " UTC  " }), nameOf(one.title)),
    el("p", {}, el("small", {}, "id ", nameOf(one.id))), el("pre", { tabindex: 0, text: clean2(indent(one.json)) })));
  // Whoever steps by keyboard goes on with the same button; a screen reader reads the title first.
  const held = isNew ? null : document.activeElement?.dataset.does;
  dialog.replaceChildren(
    el("header", {}, el("h2", { id: "story-title", tabindex: -1, text: `${found.title} UTC`.replace("Z UTC", " UTC") }), step("‹ Before", "before", found.previous), step("After ›", "after", found.next), close),
    el("p", {}, domain), el("div", { class: "lines" }, ...lines), el("h3", { text: "Messages, from sample to action" }), ...links);
  (dialog.querySelector(`[data-does="${held}"]:not(:disabled)`) ?? dialog.querySelector("h2")).focus();
  followStory(parameters, found, AGAIN_TIMES);
}

// Keeps the lines of indented JSON.
function clean2(text) { return text.split("\n").map(clean).join("\n"); }
