// What if: another policy, parameters or objectives on the samples that were recorded.

import { get, post } from "./api.js";
import { clean, el, nameOf, setText } from "./dom.js";
import { clock, ms, percent, rate, rateWithUnit } from "./format.js";
import { formats, Plot } from "./plot.js";
import { labelOf, plain } from "./series.js";
import { hideTip, showTip } from "./tip.js";

const TIMES = { "last 5 minutes": 300e3, "last 15 minutes": 900e3, "last hour": 3600e3, "last 6 hours": 21600e3 };

export class WhatIfPage {
  constructor(main, context, clockOf) {
    this.context = context; this.clock = clockOf; this.main = main; this.plots = [];
    this.domain = el("select", { onchange: () => this.choose() });
    this.policy = el("select", { onchange: () => this.showParameters() });
    this.time = el("select", {}, ...Object.keys(TIMES).map((name) => el("option", { value: name, text: name })));
    this.meaning = el("p", { class: "soft", role: "status" });
    this.parameters = el("fieldset", { onfocusin: (event) => setText(this.meaning, event.target.title ?? "") }); this.objectives = el("fieldset", {});
    this.run = el("button", { class: "main" }, "Replay");
    this.result = el("div");
    const recording = context.s && context.s !== "live";
    main.append(el("h1", { text: "What if?" }),
      el("p", { class: "soft", text: "Replays the recorded samples under another policy, other parameters or other objectives, and shows the limits beside those that were set." }),
      el("form", { onsubmit: (event) => { event.preventDefault(); this.replay(); } },
        el("div", { class: "form" }, el("label", {}, "Domain", this.domain), recording ? null : el("label", {}, "Time", this.time), el("label", {}, "Policy", this.policy), this.run), this.objectives, this.parameters),
      this.result);
  }

  close() { this.plots.forEach((plot) => plot.close()); hideTip(); }

  async load() {
    try {
      const [overview, found] = await Promise.all([get("overview", { source: this.context.s }), get("policies")]);
      this.policies = found.policies;
      const names = overview.domains.map((one) => one.name).sort();
      this.domain.replaceChildren(...names.map((name) => el("option", { value: name, text: clean(name) })));
      if (names.includes(this.context.d)) this.domain.value = this.context.d;
      this.policy.replaceChildren(...this.policies.map((one) => el("option", { value: one.name, text: one.name })));
      if (names.length) await this.choose();
      this.clock.say(null);
    } catch (error) { this.clock.say(error.message); }
  }

  async choose() {
    const end = this.clock.live ? null : this.clock.now();
    const found = await get("domain", { source: this.context.s, domain: this.domain.value, since: Math.max((end ?? this.clock.now()) - 5000, 0), until: end ? Math.ceil(end) : null }).catch(() => ({}));
    this.settings = found.settings;
    if (this.settings) this.policy.value = this.settings.policy;
    const field = (one, kind) => el("label", {}, `${kind === "p95" ? "P95" : "jitter"}, ms`, el("input", { type: "number", min: "0.01", step: "any", value: one[kind], "data-workload": one.workload, "data-kind": kind }));
    this.objectives.replaceChildren(el("legend", { text: "Objectives" }), el("div", { class: "objectives" }, ...(this.settings?.critical ?? []).flatMap((one) => [el("strong", {}, nameOf(one.workload)), field(one, "p95"), field(one, "jitter")])));
    this.showParameters();
  }

  showParameters() {
    const policy = this.policies.find((one) => one.name === this.policy.value);
    const values = { ...(policy?.parameters ?? {}), ...(this.settings?.policy === policy?.name ? this.settings?.parameters : {}) };
    this.parameters.hidden = Object.keys(values).length === 0;
    this.parameters.replaceChildren(el("legend", { text: `Parameters of ${policy?.version ?? ""}` }), el("div", { class: "form" }, ...Object.entries(values).map(([name, value]) =>
      el("label", {}, name, el("input", { title: clean(policy.meanings?.[name] ?? "") || null, type: typeof value === "number" ? "number" : "text", step: "any", value: typeof value === "object" ? JSON.stringify(value) : String(value), "data-name": name, "data-was": typeof value === "object" ? JSON.stringify(value) : String(value) })))), this.meaning);
  }

  ask() {
    const parameters = {};
    for (const input of this.parameters.querySelectorAll("input")) {
      if (input.value === input.dataset.was) continue;
      const text = input.value.trim();
      try { parameters[input.dataset.name] = JSON.parse(text); } catch { parameters[input.dataset.name] = text; }
    }
    const objectives = new Map();
    for (const input of this.objectives.querySelectorAll("input")) {
      const one = objectives.get(input.dataset.workload) ?? { workload: input.dataset.workload };
      one[input.dataset.kind] = Number(input.value);
      objectives.set(input.dataset.workload, one);
    }
    // Changed parameters replace the configured ones, which therefore go along.
    const own = this.settings?.policy === this.policy.value ? this.settings.parameters ?? {} : {};
    const asked = { domain: this.domain.value, source: this.context.s ?? "live", policy: this.policy.value, parameters: { ...own, ...parameters }, objectives: [...objectives.values()] };
    if (!this.context.s || this.context.s === "live") {
      const end = this.clock.now();
      asked.since = end - TIMES[this.time.value]; asked.until = end;
    }
    return asked;
  }

  async replay() {
    this.run.disabled = true;
    this.result.replaceChildren(el("p", { class: "soft", role: "status", text: "Replaying …" }));
    try { this.show(await post("what-if", this.ask())); this.clock.say(null); } catch (error) {
      this.result.replaceChildren(el("p", { class: "alert", role: "alert", text: clean(error.message) }));
    } finally { this.run.disabled = false; }
  }

  show(answer) {
    this.close();
    const columns = ["limits", "windows", "SLO broken", "no data", "mean limit", "lowest", "highest", "limit moved", "cuts", "shield changed it", "above", "below"];
    const table = el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col", class: name === "limits" ? null : "n", text: name })))), el("tbody", {}, ...answer.figures.map((one) => el("tr", {}, el("th", { scope: "row" }, nameOf(one.title)),
      ...[one.samples, one.broken, one.blind, rateWithUnit(one.mean), rateWithUnit(one.lowest), rateWithUnit(one.highest), one.changes, one.cuts, one.shielded, percent(one.above), percent(one.below)].map((value) => el("td", { class: "n", text: String(value) }))))));
    const rates = new Plot({ label: "Limits as they were, and under the other policy", height: "clamp(13rem, 36vh, 40rem)", format: formats.rate, onCursor: (time, at) => this.point(time, at) });
    const latency = new Plot({ label: "P95 as it was measured, beside the objectives", log: true, height: "clamp(9rem, 21vh, 24rem)", format: formats.ms, onCursor: (time, at) => this.point(time, at) });
    this.plots = [rates, latency];
    rates.series = [...plain(answer.recorded, "as it was", { dash: "dash", width: 1.8, colour: "--c5" }), ...plain(answer.replayed, "what if")];
    latency.series = plain(answer.measured.filter((one) => one.kind === "p95"), "P95");
    latency.lines = [...new Set(answer.objectives.map((one) => one.p95))].map((v) => ({ v, label: `SLO ${ms(v)} ms` }));
    latency.shades = rates.shades = answer.broken.map((span) => ({ ...span, blind: false }));
    const times = [...rates.series, ...latency.series].flatMap((one) => [one.t[0], one.t[one.t.length - 1]]).filter((one) => one !== undefined);
    const keys = (plot) => el("span", { class: "keys" }, ...plot.series.map((one) => { const line = el("i", { class: one.dash }); line.style.borderColor = `var(${one.colour})`; return el("span", { class: "key" }, line, nameOf(labelOf(one))); }));
    const panel = (title, plot) => el("section", { class: "panel" }, el("h2", {}, title, keys(plot)), plot.canvas);
    this.result.replaceChildren(
      el("p", { role: "status" }, `Replayed ${answer.figures[1].samples} windows under ${answer.policy} in ${answer.took.toFixed(2)} s.`), el("p", { class: "caveat", text: answer.caveat }),
      times.length ? el("div", {}, panel("Limits, bit/s", rates), panel("P95 as it was, ms", latency)) : el("p", { class: "empty", text: "There is no sample in that time." }), el("h2", { text: "Figures" }), el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Figures" }, table));
    for (const plot of this.plots) { plot.setWindow(Math.min(...times), Math.max(...times)); plot.draw(true); }
  }

  point(time, at) {
    for (const plot of this.plots) { plot.cursor = time; plot.draw(); }
    if (time === null) { hideTip(); return; }
    const row = (plot, one) => { const line = el("i", { class: one.dash }); line.style.borderColor = `var(${one.colour})`; return el("div", { class: "row" }, el("span", { class: "key" }, line, el("span", { text: clean(labelOf(one)) })), el("span", { text: plot === this.plots[0] ? rate(one.value) : `${ms(one.value)} ms` })); };
    showTip([el("b", { text: clock(time) + " UTC" }), ...this.plots.flatMap((plot) => plot.valuesAt(time).filter((one) => one.value !== null).map((one) => row(plot, one)))], at.x, at.y);
  }

  frame() { return false; }
}
