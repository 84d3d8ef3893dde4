// One domain: its figures now, and the last minutes as plots with every decision that moved a limit.

import { get } from "./api.js";
import { clean, el, nameOf, rowOf, setAttribute, setText, tableOf } from "./dom.js";
import { clock, ms, rate, rateWithUnit, STATES } from "./format.js";
import { firstFrom, formats, Plot } from "./plot.js";
import { link } from "./route.js";
import { History, labelOf } from "./series.js";
import { openStory, explain } from "./story.js";
import { hideTip, showTip } from "./tip.js";

const SPANS = { "1 min": 60e3, "5 min": 300e3, "15 min": 900e3, "1 h": 3600e3, "6 h": 21600e3, "24 h": 86400e3 };
const HEADS = { p95: "P95", jitter: "Jitter" };
const LONG_MS = 3600e3, LOAD_MS = 250, BUSY_MS = 600, ROWS = 12;

const MARKS = [["●", "--c2", "raise"], ["●", "--c1", "lower"], ["▼", "--bad", "cut: an SLO is broken"], ["◆", "--c3", "by the actuator itself"], ["◆", "--near", "no data, or paused"], ["◆", "--bad", "fault, or a failed patch"]];

function legend() {
  const signs = MARKS.map(([sign, colour, words]) => {
    const shape = el("span", { "aria-hidden": "true", text: sign });
    shape.style.color = `var(${colour})`;
    return el("span", { class: "key" }, shape, words);
  });
  return el("p", { class: "soft legend" }, ...signs, el("span", { text: "Red ground: an SLO was broken. Grey ground: no data. Click a mark for its story." }));
}

export class DomainPage {
  // `clock` gives and takes the time that is shown: now(), live, goTo(ms).
  constructor(main, context, clock) {
    this.context = context; this.clock = clock; this.name = context.d;
    this.history = new History();
    this.span = Number(context.span) || 300e3;
    this.asked = 0; this.late = []; this.begin = 0; this.end = 0; this.listed = "";
    this.badge = el("span", { class: "badge", "data-state": "waiting", text: STATES.waiting });
    this.busy = el("span", { class: "soft", role: "status", hidden: true, text: "loading …" });
    this.why = el("p", { class: "soft name" });
    this.tiles = Object.fromEntries(["Worst P95", "Worst jitter", "Limit", "Sent", "Room for best effort", "In charge"].map((name) => {
      const value = el("b", { text: "–" }), note = el("small", { text: "" });
      return [name, { value, note, node: el("div", { class: "tile" }, el("small", { text: name }), value, note) }];
    }));
    this.spans = el("div", { class: "spans", role: "group", "aria-label": "How much time to show" },
      ...Object.entries(SPANS).map(([name, span]) => el("button", { type: "button", "data-span": span, onclick: () => this.setSpan(span) }, name)));
    const cursor = (time, at) => this.point(time, at);
    const pan = (by) => this.clock.goTo(Math.min(this.clock.now() + by, this.clock.latest()));
    const pick = (mark) => this.open(mark);
    const options = { onCursor: cursor, onPan: pan, onPick: pick };
    this.plots = {
      p95: new Plot({ ...options, label: "P95 latency of each critical workload, in milliseconds", log: true, height: "clamp(9rem, 21vh, 24rem)", format: formats.ms }),
      jitter: new Plot({ ...options, label: "Jitter of each critical workload, in milliseconds", log: true, height: "clamp(8rem, 17vh, 24rem)", format: formats.ms }),
      rates: new Plot({ ...options, label: "Limits and what was sent. Arrow keys go from decision to decision, Enter opens one, Shift and arrows move in time.", height: "clamp(12rem, 33vh, 40rem)", format: formats.rate }),
    };
    this.keys = {};
    const panel = (id, title, wide) => { this.keys[id] = el("span", { class: "keys" }); return el("section", { class: wide ? "panel wide" : "panel" }, el("h2", {}, title, this.keys[id]), this.plots[id].canvas); };
    this.table = el("tbody");
    this.none = el("p", { class: "soft", text: "No limit moved in this time." });
    main.append(
      el("div", { class: "head" }, el("h1", {}, nameOf(this.name)), this.badge, this.busy, this.spans), this.why,
      el("div", { class: "tiles" }, ...Object.values(this.tiles).map((one) => one.node)),
      el("div", { class: "panels" }, panel("p95", "P95, ms"), panel("jitter", "Jitter, ms"), panel("rates", "Limits and load, bit/s", true)),
      legend(),
      el("h2", { text: "The last decisions and actions in this time" }),
      tableOf(["UTC", "what", "target", "limit", "in words"], ["limit"], this.table), this.none,
      el("p", {}, el("a", { href: link("actions", { s: context.s, d: this.name }) }, "Search its actions"), " · ", el("a", { href: link("what-if", { s: context.s, d: this.name }) }, "What if it had another policy?")));
    this.setSpan(this.span);
  }

  close() { this.stop?.abort(); Object.values(this.plots).forEach((plot) => plot.close()); hideTip(); }

  setSpan(span) {
    this.span = span;
    // What is there may be too much, and too coarse.
    this.stop?.abort(); this.loading = this.isRough = false; this.begin = Infinity;
    for (const button of this.spans.children) button.setAttribute("aria-pressed", String(Number(button.dataset.span) === span));
    this.asked = 0;
  }

  // Loads what is missing of the shown time, and a little around it.  A long time of the bus is shown roughly first: all
  // of its messages take a while, and are given up where another time is wanted.
  async load() {
    const now = this.clock.now(), margin = this.span / 3;
    if (performance.now() - this.asked < LOAD_MS || (this.loading && !this.isRough)) return;
    this.asked = performance.now(); this.loading = true;
    this.stop?.abort();
    const stop = this.stop = new AbortController(); this.late = [];
    const since = Math.floor(now - this.span - margin), until = this.clock.live ? null : Math.ceil(Math.min(now + margin, this.clock.latest() + 1));
    const busy = setTimeout(() => { this.busy.hidden = false; }, BUSY_MS);
    try {
      const asked = { source: this.context.s, domain: this.name, since: Math.max(since, 0), until };
      const isLong = this.context.s === "live" && this.span >= LONG_MS;
      for (const rough of isLong ? [true, false] : [false]) {
        const found = await get("domain", { ...asked, rough: rough || null }, stop.signal);
        if (stop.signal.aborted) return;
        this.history.replace(found);
        // What arrived meanwhile is not in the answer.
        for (const update of this.late) this.history.merge(update, 0);
        this.begin = since; this.end = this.clock.live ? Infinity : until;
        this.settings = found.settings ?? this.settings;
        if (found.now && !(rough && this.clock.live)) this.showNow(found.now);
        this.apply();
        this.clock.say(null);
        this.isRough = rough; setText(this.busy, rough ? "a rough view; loading all of it …" : "loading …"); this.busy.hidden = !rough;
      }
    } catch (error) {
      if (stop.signal.aborted) return;
      this.clock.say(error.message);
      this.asked = performance.now() + 2000;
    } finally {
      clearTimeout(busy);
      if (this.stop === stop) { this.loading = this.isRough = false; this.busy.hidden = true; this.late = []; }
    }
  }

  refresh() { this.begin = Infinity; this.asked = 0; }

  update(event) {
    if (event.history.name !== this.name || !this.clock.live) return;
    if (this.loading) this.late.push(event.history);
    this.history.merge(event.history, this.clock.now() - Math.max(this.span * 1.5, 120e3));
    this.apply();
  }

  // The summaries of all domains come too: this page takes its own.
  updateOverview(event) {
    const own = event.domains.find((one) => one.name === this.name);
    if (own && this.clock.live) this.showNow(own);
  }

  showNow(view) {
    setAttribute(this.badge, "data-state", view.state); setText(this.badge, STATES[view.state]);
    setText(this.why, clean(view.reason));
    const set = (name, value, note) => { setText(this.tiles[name].value, value); setText(this.tiles[name].note, clean(note ?? "")); };
    const latency = (name, one) => set(name, one ? `${ms(one.value)} ms` : "–", one ? (one.objective ? `of ${ms(one.objective)} ms, ` : "") + one.workload : "");
    latency("Worst P95", view.p95); latency("Worst jitter", view.jitter);
    const targets = view.targets ?? [], perPod = targets.some((one) => one.per_pod);
    set("Limit", perPod && view.limit === undefined ? "per pod" : rateWithUnit(view.limit), targets.map((one) => `${one.target} ${rate(one.limit)}`).join(", "));
    set("Sent", rateWithUnit(view.sent), targets.map((one) => `${one.target} ${rate(one.sent)}`).join(", "));
    const room = view.headroom === undefined ? (view.policy ? "this policy keeps no estimate" : "") : view.headroom > 0 ? "what the policy takes the bottleneck to leave" : "the policy expects the critical load to need all of the bottleneck";
    set("Room for best effort", view.headroom <= 0 ? "none" : rateWithUnit(view.headroom), room);
    set("In charge", view.in_charge || "–", [view.policy, ...targets.filter((one) => one.note).map((one) => `${one.target}: ${one.note}`)].filter(Boolean).join(" · "));
  }

  // Gives the plots what there is.
  apply() {
    const { plots, history, settings } = this;
    for (const kind of ["p95", "jitter"]) {
      plots[kind].series = history.series(kind);
      const objectives = [...new Set((settings?.critical ?? []).map((one) => one[kind]))];
      plots[kind].lines = objectives.map((v) => ({ v, label: `SLO ${ms(v)} ms` }));
      this.showKeys(kind);
    }
    plots.rates.series = history.series("limit", "sent", "shadow", "safe", "expected");
    plots.rates.lines = settings?.capacity ? [{ v: settings.capacity, label: `capacity ${rate(settings.capacity)}`, colour: "--c5", far: true }] : [];
    plots.rates.marks = history.marks;
    this.showKeys("rates");
    for (const plot of Object.values(plots)) { plot.shades = history.shades; plot.version = history.version; }
  }

  showKeys(id) {
    const text = this.plots[id].series.map((one) => one.id).join("\n");
    if (this.keys[id].dataset.text === text) return;
    this.keys[id].dataset.text = text;
    this.keys[id].replaceChildren(...this.plots[id].series.map((one) => {
      const line = el("i", { class: one.dash });
      line.style.borderColor = `var(${one.colour})`;
      return el("span", { class: "key" }, line, nameOf(labelOf(one)));
    }));
  }

  frame() {
    const now = this.clock.now(), begin = now - this.span;
    if (begin < this.begin || now > this.end + 1 || (this.clock.live && this.end !== Infinity)) this.load();
    let drawn = false;
    for (const plot of Object.values(this.plots)) { plot.setWindow(begin, now); drawn = plot.draw() || drawn; }
    const listed = `${this.history.version} ${Math.round(now / 1000)}`;
    if (listed !== this.listed && !this.table.contains(document.activeElement)) { this.listed = listed; this.list(begin, now); }
    return drawn;
  }

  list(begin, now) {
    const marks = this.history.marks.slice(firstFrom(this.history.times, begin), firstFrom(this.history.times, now + 1)).slice(-ROWS).reverse();
    this.none.hidden = marks.length > 0 || this.isRough;
    this.table.replaceChildren(...marks.map((mark) => rowOf(
      el("td", { class: "when" }, el("button", { type: "button", class: "text", onclick: () => this.open(mark) }, clock(mark.t))), el("td", { text: mark.kind }),
      el("td", {}, nameOf(mark.target)), el("td", { class: "n", text: rate(mark.limit) }), el("td", { class: "words", text: clean(mark.text) }))));
  }

  open(mark) { hideTip(); openStory({ s: this.context.s, id: mark.id, d: this.name, at: mark.t }); }

  // Shows all figures at a time, and with a mark its words.
  point(time, at) {
    for (const plot of Object.values(this.plots)) { plot.cursor = time; if (time === null) plot.picked = null; }
    if (time === null) { hideTip(); return; }
    const rows = [];
    for (const plot of Object.values(this.plots)) {
      for (const one of plot.valuesAt(time)) {
        if (one.value === null || one.value === undefined) continue;
        const line = el("i", { class: one.dash });
        line.style.borderColor = `var(${one.colour})`;
        const value = plot === this.plots.rates ? rateWithUnit(one.value) : `${ms(one.value)} ms`;
        rows.push(el("div", { class: "row" }, el("span", { class: "key" }, line, el("span", { text: clean(`${HEADS[one.kind] ?? ""} ${labelOf(one)}`.trim()) })), el("span", { text: value })));
      }
    }
    const shade = this.history.shades.find((one) => one.begin <= time && one.end >= time);
    const words = shade ? [el("p", { text: (shade.blind ? "no data: " : "SLO broken: ") + clean(shade.what) })] : [];
    const content = [el("b", { text: clock(time) + " UTC" })];
    if (at.mark) content.push(el("p", { text: clean(at.mark.text) }));
    if (!at.mark || !at.keyboard) content.push(...rows);
    content.push(...words);
    const place = showTip(content, at.x, at.y);
    if (at.mark) explain({ s: this.context.s, id: at.mark.id, d: this.name, at: at.mark.t }, place);
  }
}
