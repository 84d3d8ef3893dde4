// The search over actions.

import { get } from "./api.js";
import { clean, el, nameOf, rowOf, tableOf } from "./dom.js";
import { clock, dateTime, ratePair } from "./format.js";
import { link } from "./route.js";
import { openStory } from "./story.js";

const CAUSES = ["decision", "drift", "new-pod", "rescale", "dead-man", "start", "restore"];
const OUTCOMES = ["applied", "unchanged", "skipped", "failed", "dry-run"];
const TIMES = { "last hour": 3600e3, "last 15 minutes": 900e3, "last 6 hours": 21600e3, "all that is kept": null };

const choice = (label, values) => el("select", { "aria-label": label }, el("option", { value: "", text: `any ${label}` }), ...values.map((one) => el("option", { value: one, text: one })));

export class ActionsPage {
  constructor(main, context, clockOf) {
    this.context = context; this.clock = clockOf;
    this.fields = { domain: el("input", { type: "search", "aria-label": "Domain", placeholder: "domain", value: context.d ?? "" }), cause: choice("cause", CAUSES), outcome: choice("outcome", OUTCOMES), text: el("input", { type: "search", "aria-label": "Text in target, reason or id", placeholder: "target, reason or id" }) };
    this.time = el("select", { "aria-label": "Time" }, ...Object.keys(TIMES).map((name) => el("option", { value: name, text: name })));
    if (context.s && context.s !== "live") this.time.value = "all that is kept";
    this.found = el("p", { class: "soft", role: "status" });
    this.rows = el("tbody");
    const form = el("form", { class: "form", role: "search", onsubmit: (event) => { event.preventDefault(); this.load(); } }, ...Object.values(this.fields), this.time, el("button", { class: "main" }, "Search"));
    for (const field of [this.fields.cause, this.fields.outcome, this.time]) field.addEventListener("change", () => this.load());
    main.append(el("h1", { text: "Actions" }), el("p", { class: "soft", text: "Every change that the actuator made or tried, and why. Each leads to its decision and its sample." }), form, this.found,
      tableOf(["UTC", "domain", "target", "was", "limit", "outcome", "cause", "reason"], ["was", "limit"], this.rows));
  }

  close() {}
  frame() { return false; }

  async load() {
    const values = Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [name, field.value.trim()]));
    const span = TIMES[this.time.value], end = this.clock.now();
    try {
      const found = await get("actions", { source: this.context.s, ...values, since: span === null ? 0 : Math.max(end - span, 0), until: this.clock.live ? null : Math.ceil(end) });
      this.clock.say(null);
      this.found.textContent = `${found.actions.length}${found.more ? " newest" : ""} of ${found.searched} actions in that time`;
      this.rows.replaceChildren(...found.actions.map((one) => this.row(one)));
    } catch (error) { this.clock.say(error.message); }
  }

  row(one) {
    const open = () => openStory({ s: this.context.s, id: one.id, d: one.domain, at: one.t });
    const [was, limit] = ratePair(one.was, one.limit);
    const cell = (text, kind, label) => el("td", { class: kind, "data-label": label, text });
    return rowOf(
      el("td", { class: "when" }, el("button", { type: "button", class: "text", title: dateTime(one.t), onclick: open }, clock(one.t))),
      el("td", {}, el("a", { href: link("domain", { s: this.context.s, d: one.domain, at: one.t + 15000 }) }, nameOf(one.domain))), el("td", {}, nameOf(one.target)),
      cell(was, "n", "was"), cell(limit, "n", "limit"), cell(one.outcome + (one.pods ? `, ${one.pods} pod${one.pods > 1 ? "s" : ""}` : "")), cell(one.cause), cell(clean(one.reason), "words"));
  }
}
