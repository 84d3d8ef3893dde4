// The page: where it is, what it shows, and the loop that draws it.

import { get, listen, upload } from "./api.js";
import { ActionsPage } from "./actions.js";
import { clean, el, setText } from "./dom.js";
import { DomainPage } from "./domain.js";
import { Machine } from "./machine.js";
import { OverviewPage } from "./overview.js";
import { link, parse } from "./route.js";
import { closeStory, showStory } from "./story.js";
import { WhatIfPage } from "./whatif.js";

const PAGES = { overview: OverviewPage, domain: DomainPage, actions: ActionsPage, "what-if": WhatIfPage };
const PAST_MS = 400, SOURCES_MS = 60000;
const byId = (id) => document.getElementById(id);
const main = byId("main"), alertBox = byId("alert"), sourceBox = byId("source"), state = byId("link");
let sources = [], largest = Infinity, view = null, shown = "", events = null, followed = null, heard = 0, pending = null, published = 0, pastAsked = 0, pastLoading = false, pastMoved = false, failure = null, busy = "";

const machine = new Machine(byId("machine"), (moved) => {
  if (moved) showLink();
  if (!(view instanceof OverviewPage)) return;
  if (moved && machine.live && !pastLoading) view.refresh(); else loadPast(moved);
});
const clockOf = { now: () => machine.now(), latest: () => machine.latest(), goTo: (time) => machine.goTo(time), get live() { return machine.live; }, say };

function say(text) {
  const words = text ?? failure ?? "";
  alertBox.hidden = !words;
  setText(alertBox, clean(words));
}

function showLink() {
  const alive = performance.now() - heard < 15000;
  const now = !view ? "none" : machine.isLiveSource ? (machine.live ? (alive ? "live" : "lost") : "past") : "recording";
  state.dataset.state = now;
  setText(state, busy || { none: "", live: "live", lost: "reconnecting", past: "the past", recording: "recording" }[now]);
}

async function loadSources(wanted) {
  const found = await get("sources");
  sources = found.sources; largest = found.largest ?? Infinity;
  sourceBox.replaceChildren(...sources.map((one) => el("option", { value: one.id, text: one.id === "live" ? "the bus, live" : clean(one.title) })));
  byId("open").hidden = !found.uploads;
  const chosen = sources.find((one) => one.id === wanted) ?? sources[0];
  if (chosen) sourceBox.value = chosen.id;
  sourceBox.hidden = sources.length < 2;
  return chosen;
}

// Overviews of the past are asked for one after another, and not more often than they can be looked at.
async function loadPast(moved) {
  if (pastLoading) { pastMoved ||= moved; return; }
  if (machine.live || (!moved && performance.now() - pastAsked < PAST_MS)) return;
  pastAsked = performance.now();
  pastLoading = true;
  const page = view;
  try { await page.load(Math.round(machine.now())); say(null); } catch (error) { say(error.message); } finally { pastLoading = false; }
  // What was asked for last counts: another time, or now.
  if (view !== page || !pastMoved) return;
  pastMoved = false;
  if (machine.live) view.refresh(); else loadPast(true);
}

// A browser opens six connections to a server, so a tab that nobody sees gives its own to others.
function connect(domain) {
  followed = domain;
  events?.close();
  events = null;
  if (!machine.isLiveSource || document.hidden) return;
  events = listen(domain, {
    // What came before the stream was open, or while it was lost, is asked for.
    open: () => { heard = performance.now(); showLink(); if (machine.live) view?.refresh?.(); },
    alive: () => { heard = performance.now(); showLink(); },
    lost: () => { heard = 0; showLink(); },
    resync: () => { if (machine.live) view?.refresh?.(); },
    overview: (event) => {
      hear(event);
      failure = nameFailure(event.failure);
      say(null);
      if (!machine.live) return;
      if (view instanceof OverviewPage) view.update(event); else view?.updateOverview?.(event);
    },
    history: (event) => { hear(event); view?.update?.(event); },
  });
}

function hear(event) {
  heard = performance.now();
  machine.setServerTime(event.now);
  if (event.published) published = Math.min(published || Infinity, event.published);
}

async function route() {
  const { page, parameters } = parse(location.hash);
  if (page === "story") {
    if (!view) await show(parameters.d ? "domain" : "overview", { s: parameters.s, d: parameters.d });
    await showStory(parameters);
    return;
  }
  closeStory();
  await show(Object.hasOwn(PAGES, page) ? page : "overview", parameters);
}

async function show(page, parameters) {
  const key = JSON.stringify([page, parameters]);
  if (key === shown) return;
  shown = key;
  view?.close();
  view = null;
  const held = main.contains(document.activeElement);
  main.replaceChildren();
  say(null);
  let source;
  try { source = await loadSources(parameters.s); } catch (error) { say(error.message); shown = ""; setTimeout(route, 2000); return; }
  if (shown !== key) return; // another view was asked for meanwhile
  const isGone = source && parameters.s && source.id !== parameters.s;
  byId("machine").hidden = !source || isGone;
  if (!source) { main.append(el("p", { class: "empty", text: "There is nothing to show: drop a recording here." })); return; }
  if (isGone) {
    main.append(el("p", { class: "empty" }, "This recording is not here any more: drop it again, or ", el("a", { href: link("overview", { s: source.id }) }, "see what is here"), "."));
    return;
  }
  if (source.id !== machine.source || parameters.at) machine.setSource(source, Number(parameters.at) || null);
  machine.source = source.id;
  const context = { ...parameters, s: source.id };
  for (const one of document.querySelectorAll("nav a")) {
    one.toggleAttribute("aria-current", one.dataset.page === page);
    one.href = link(one.dataset.page, { s: source.id });
  }
  failure = nameProblem(source); say(null);
  document.title = (parameters.d ? clean(parameters.d) + " – " : "") + "Sluice";
  view = new PAGES[page](main, context, clockOf);
  // The link that led here is gone with the view before: keyboard and screen reader go on at the new one's title.
  const title = main.querySelector("h1");
  title.tabIndex = -1;
  if (held) title.focus({ preventScroll: true });
  connect(page === "domain" ? parameters.d : null);
  showLink();
  try { noteFailure((await view.load?.(machine.live ? null : Math.round(machine.now())))?.failure); } catch (error) { say(error.message); }
}

function nameProblem(source) {
  if (source.problems?.length) return `This recording is not whole: ${source.problems[0]}`;
  return source.id !== "live" && !source.messages ? "This recording holds no message." : null;
}

function noteFailure(reason) {
  if (!reason) return;
  failure = nameFailure(reason);
  say(null);
}

const nameFailure = (reason) => (reason ? `The bus cannot be read: ${reason}` : null);

async function openFile(file) {
  say(null);
  if (byId("open").hidden) { say("This page takes no recordings: sluice ui FILE opens one."); return; }
  const size = `${(file.size / 2 ** 20).toFixed(1)} MiB`;
  if (file.size > largest) { say(`${file.name} has ${size}. At most ${largest / 2 ** 20} MiB are taken here: record a shorter time, or open it on the server: sluice ui FILE`); return; }
  busy = `reading ${size} …`;
  showLink();
  try {
    const found = await upload(file);
    location.hash = link("overview", { s: found.id });
  } catch (error) { say(error.message.includes(file.name) ? error.message : `${file.name}: ${error.message}`); } finally { busy = ""; showLink(); }
}

sourceBox.addEventListener("change", () => { location.hash = link("overview", { s: sourceBox.value === "live" ? null : sourceBox.value }); });
byId("file").addEventListener("change", (event) => { if (event.target.files[0]) openFile(event.target.files[0]); event.target.value = ""; });
addEventListener("dragenter", (event) => { if (!byId("open").hidden && [...event.dataTransfer.types].includes("Files")) byId("drop").hidden = false; });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("dragleave", (event) => { if (event.relatedTarget === null) byId("drop").hidden = true; });
addEventListener("drop", (event) => { event.preventDefault(); byId("drop").hidden = true; if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]); });
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => { if (view) connect(followed); });
setInterval(() => { machine.refresh(); showLink(); }, 500);
setInterval(async () => {
  if (!machine.isLiveSource) return;
  const live = await get("sources").then((found) => found.sources.find((one) => one.id === "live"), () => null);
  if (live && machine.isLiveSource) machine.setBegin(live.begin);
}, SOURCES_MS);

let last = performance.now();
function frame(time) {
  machine.tick(time - last);
  last = time;
  view?.frame?.();
  // Benches measure how old a message is when it has become pixels: once the next frame begins.
  if (pending !== null) { dispatchEvent(new CustomEvent("sluice:painted", { detail: { published: pending, at: Date.now() } })); pending = null; }
  if (published) { pending = published; published = 0; }
  requestAnimationFrame(frame);
}

route();
requestAnimationFrame(frame);
