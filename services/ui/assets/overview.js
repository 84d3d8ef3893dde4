// The overview: every domain, the worst first; cards where there are few of them, otherwise a table.

import { get } from "./api.js";
import { clean, el, nameOf, setAttribute, setText } from "./dom.js";
import { ms, rate, STATES } from "./format.js";
import { spark } from "./plot.js";
import { link } from "./route.js";

const FEW = 12, PAGE = 50, TRAIL = 120, SORT_MS = 2000, ROWS_MS = 100;
const ABOUT = "A domain is a set of workloads that share a bottleneck. Sluice moves the limits of its best-effort workloads so that the latency of its critical ones stays within their SLOs.";
const ORDER = Object.keys(STATES);

function meter() {
  const bar = el("i");
  return { bar, node: el("span", { class: "meter", "aria-hidden": "true" }, bar) };
}

function setMeter(bar, share, level) {
  const width = share === null ? "0" : Math.min(share * 100, 100).toFixed(0) + "%";
  if (bar.style.width !== width) bar.style.width = width;
  setAttribute(bar, "data-level", level);
}

function latency(view) {
  if (!view) return ["–", ""];
  return [ms(view.value), view.objective ? ` of ${ms(view.objective)} ms` : " ms"];
}

const levelOf = (share) => (share === null ? "none" : share > 1 ? "over" : share > 0.8 ? "near" : "good");
const shareOf = (view) => (view?.objective ? view.value / view.objective : null);

// What a card and a row have in common: a name, a state and figures, each written only when it changes.
class Item {
  constructor(view, context) {
    this.badge = el("span", { class: "badge" });
    this.title = el("a", { href: link("domain", { ...context, d: view.name }) }, nameOf(view.name));
    this.p95 = el("span"); this.p95of = el("small");
    this.jitter = el("span"); this.jitterOf = el("small");
    this.limit = el("span"); this.sent = el("small"); this.room = el("span");
    this.policy = el("span", { class: "name" }); this.charge = el("span", { class: "name" });
    this.why = el("p", { class: "why" });
    this.meters = { p95: meter(), jitter: meter(), sent: meter() };
    this.curve = el("canvas", { role: "img", "aria-label": "Latency beside its objective, over the last windows" });
    this.trail = { t: [], stress: [], limit: [], sent: [] };
    (view.trail ?? []).forEach((point) => this.addPoint(...point));
  }

  addPoint(time, stress, limit, sent) {
    if (!time) return; // nothing was measured yet
    const { trail } = this, last = trail.t.length - 1;
    if (last >= 0 && trail.t[last] >= time) {
      if (trail.t[last] === time) { trail.stress[last] = stress; trail.limit[last] = limit; trail.sent[last] = sent; }
      return;
    }
    trail.t.push(time); trail.stress.push(stress); trail.limit.push(limit); trail.sent.push(sent);
    if (trail.t.length > TRAIL) for (const list of Object.values(trail)) list.shift();
  }

  update(view) {
    const [p95, p95of] = latency(view.p95), [jitter, jitterOf] = latency(view.jitter);
    setAttribute(this.node, "data-state", view.state);
    setAttribute(this.badge, "data-state", view.state);
    setText(this.badge, STATES[view.state]);
    setText(this.p95, p95); setText(this.p95of, p95of); setText(this.jitter, jitter); setText(this.jitterOf, jitterOf);
    const perPod = view.limit === undefined && view.targets?.some((one) => one.per_pod);
    setText(this.limit, perPod ? "per pod" : rate(view.limit)); setText(this.sent, ` sent ${rate(view.sent)}`);
    setText(this.room, view.headroom <= 0 ? "none" : rate(view.headroom));
    setText(this.policy, clean(view.policy || "–"));
    setText(this.charge, clean(view.in_charge ?? ""));
    setText(this.why, clean(view.reason));
    setMeter(this.meters.p95.bar, shareOf(view.p95), levelOf(shareOf(view.p95)));
    setMeter(this.meters.jitter.bar, shareOf(view.jitter), levelOf(shareOf(view.jitter)));
    setMeter(this.meters.sent.bar, view.limit && view.sent !== undefined ? view.sent / view.limit : null, "rate");
  }
}

class Card extends Item {
  constructor(view, context) {
    super(view, context);
    this.rates = el("canvas", { role: "img", "aria-label": "Limit, and what best effort sent, over the last windows" });
    const figure = (name, value, ...rest) => el("div", {}, el("dt", { text: name }), el("dd", {}, value, ...rest));
    const key = (name, colour, dash) => { const line = el("i", { class: dash }); line.style.borderColor = `var(${colour})`; return el("span", { class: "key" }, line, name); };
    this.node = el("li", { class: "card" },
      el("header", {}, el("h2", {}, this.title), this.badge),
      el("p", { class: "caption" }, key("latency / SLO", "--c0"), key("SLO", "--bad", "dash")), this.curve,
      el("p", { class: "caption" }, key("limit", "--c2"), key("sent", "--c1")), this.rates,
      el("dl", { class: "figures" },
        figure("Worst P95", this.p95, this.p95of, this.meters.p95.node), figure("Worst jitter", this.jitter, this.jitterOf, this.meters.jitter.node),
        figure("Limit", this.limit, this.sent, this.meters.sent.node), figure("Room for best effort", this.room),
        figure("Policy", this.policy), figure("In charge", this.charge)),
      this.why);
  }

  draw() {
    const { t, stress, limit, sent } = this.trail;
    spark(this.curve, t, stress, { full: 1 });
    spark(this.rates, t, limit, { line: "--c2", under: sent, step: true });
  }
}

class Row extends Item {
  constructor(view, context) {
    super(view, context);
    const cell = (label, kind, ...content) => el("td", { role: "cell", class: kind, "data-label": label }, ...content);
    this.why.className = "clip";
    this.node = el("tr", { role: "row" },
      cell(null, null, this.badge), cell(null, null, this.title), cell(null, null, this.curve),
      cell("P95", "n", this.p95, this.p95of), cell("jitter", "n", this.jitter, this.jitterOf),
      cell("limit", "n", this.limit, this.sent), cell("room", "n", this.room),
      cell("policy", null, this.policy), cell("in charge", null, this.charge), cell(null, null, this.why));
  }

  draw() { spark(this.curve, this.trail.t, this.trail.stress, { full: 1 }); }
}

const COLUMNS = ["state", "domain", "latency / SLO", "P95", "jitter", "limit, sent", "room", "policy", "in charge", "why"];

export class OverviewPage {
  constructor(main, context) {
    this.context = context;
    this.views = new Map(); this.items = new Map(); this.dirty = new Set(); this.shown = PAGE; this.sorted = 0; this.filter = "";
    this.chips = el("div", { class: "badges chips", role: "status" });
    this.search = el("input", { type: "search", placeholder: "Filter by name or policy", "aria-label": "Filter the domains", oninput: () => { this.filter = this.search.value.toLowerCase(); this.shown = PAGE; this.arrange(); } });
    this.place = el("div");
    this.more = el("button", { type: "button", hidden: true, onclick: () => { this.shown += 4 * PAGE; this.arrange(); } });
    this.seen = new IntersectionObserver((entries) => entries.forEach((entry) => { entry.target.inView = entry.isIntersecting; this.dirty.add(entry.target.domain); }));
    // The small curves of a recording change with the window and the colours only.
    this.redraw = () => this.items.forEach((_, name) => this.dirty.add(name));
    let width = 0;
    this.size = new ResizeObserver(([{ contentRect }]) => { if (contentRect.width !== width) { width = contentRect.width; this.redraw(); } });
    this.size.observe(this.place);
    addEventListener("sluice:theme", this.redraw);
    main.append(el("h1", { text: "Domains" }), el("p", { class: "soft", text: ABOUT }), el("div", { class: "chips" }, this.chips, this.search), this.place, el("p", {}, this.more));
  }

  close() { this.seen.disconnect(); this.size.disconnect(); removeEventListener("sluice:theme", this.redraw); }

  async load(at = null) {
    const found = await get("overview", { source: this.context.s, at });
    const names = new Set(found.domains.map((one) => one.name));
    for (const name of this.views.keys()) if (!names.has(name)) this.views.delete(name);
    for (const view of found.domains) {
      this.views.set(view.name, view);
      const item = this.items.get(view.name);
      if (item) { item.trail = { t: [], stress: [], limit: [], sent: [] }; (view.trail ?? []).forEach((point) => item.addPoint(...point)); }
    }
    this.arrange();
    return found;
  }

  refresh() { this.load().catch(() => {}); }

  update(event) {
    for (const name of event.removed ?? []) this.views.delete(name);
    if (event.removed?.length) this.arrange();
    for (const view of event.domains) {
      const before = this.views.get(view.name);
      if (before?.trail) view.trail = before.trail;
      this.views.set(view.name, view);
      const item = this.items.get(view.name), sum = (kind) => view[kind] ?? null;
      // Until a domain has been shown, its points wait in the view.
      if (item) item.addPoint(view.time, view.stress ?? null, sum("limit"), sum("sent"));
      else (view.trail ??= []).push([view.time, view.stress ?? null, sum("limit"), sum("sent")]);
      if (view.trail && view.trail.length > 2 * TRAIL) view.trail.splice(0, TRAIL);
      this.dirty.add(view.name);
      if (before?.state !== view.state) this.sorted = Math.min(this.sorted, performance.now() - SORT_MS + 250);
    }
  }

  compare(a, b) { return ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || (b.stress ?? 0) - (a.stress ?? 0) || (a.name < b.name ? -1 : 1); }

  // Puts the items in order, and makes those that are new; what holds the focus stays where it is.
  arrange() {
    this.sorted = performance.now();
    const passes = (view) => !this.filter || (view.name + " " + view.policy + " " + STATES[view.state]).toLowerCase().includes(this.filter);
    const views = [...this.views.values()].filter(passes), few = this.views.size <= FEW;
    views.sort(few ? (a, b) => (a.name < b.name ? -1 : 1) : this.compare);
    if (few) views.sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state));
    this.prepare(few);
    this.count();
    const wanted = views.slice(0, few ? FEW : this.shown), keep = new Set(wanted.map((one) => one.name));
    for (const [name, item] of this.items) if (!keep.has(name)) { this.seen.unobserve(item.node); item.node.remove(); this.items.delete(name); }
    let before = this.list.firstElementChild;
    for (const view of wanted) {
      let item = this.items.get(view.name);
      if (!item) {
        item = few ? new Card(view, this.context) : new Row(view, this.context);
        item.node.domain = view.name; item.node.inView = true;
        this.items.set(view.name, item);
        this.seen.observe(item.node);
      }
      if (item.node !== before) this.list.insertBefore(item.node, before); else before = before.nextElementSibling;
      this.dirty.add(view.name);
    }
    this.more.hidden = views.length <= wanted.length;
    setText(this.more, `Show more: ${views.length - wanted.length} in no worse state`);
    if (this.empty) this.empty.hidden = views.length > 0;
  }

  prepare(few) {
    if (this.few === few) return;
    this.few = few;
    this.items.forEach((item) => this.seen.unobserve(item.node)); this.items.clear();
    this.empty = el("p", { class: "empty", text: "No domain here yet." });
    if (few) { this.list = el("ul", { class: "cards" }); this.place.replaceChildren(this.list, this.empty); return; }
    this.list = el("tbody", { role: "rowgroup" });
    const heads = COLUMNS.map((name, i) => el("th", { scope: "col", role: "columnheader", class: i > 2 && i < 7 ? "n" : null, text: name }));
    this.place.replaceChildren(el("div", { class: "scroll" }, el("table", { class: "fleet", role: "table", "aria-label": "Domains, the worst first" }, el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), this.list)), this.empty);
  }

  count() {
    const counts = {};
    for (const view of this.views.values()) counts[view.state] = (counts[view.state] ?? 0) + 1;
    const text = JSON.stringify(counts);
    if (text === this.counted) return;
    this.counted = text;
    this.chips.replaceChildren(...ORDER.filter((state) => counts[state]).map((state) => el("span", { class: "badge", "data-state": state, text: `${counts[state]} ${STATES[state]}` })));
  }

  // Draws what changed and can be seen; returns whether anything did.
  frame() {
    if (performance.now() - this.sorted > SORT_MS && this.dirty.size && !this.place.contains(document.activeElement)) this.arrange();
    // Hundreds of rows need not change more often than an eye can read them.
    if (!this.few && performance.now() - (this.drawnAt ?? 0) < ROWS_MS) return false;
    this.drawnAt = performance.now();
    const any = this.dirty.size > 0, changed = [];
    if (any && performance.now() - (this.countedAt ?? 0) > 300) { this.countedAt = performance.now(); this.count(); }
    for (const name of this.dirty) {
      const item = this.items.get(name), view = this.views.get(name);
      if (!item || !view || !item.node.inView) continue;
      item.update(view);
      changed.push(item);
    }
    for (const item of changed) item.draw();
    this.dirty.clear();
    return any;
  }
}
