// The time machine: which time the page shows, and how it goes on from there.

import { el, setText } from "./dom.js";
import { dateTime } from "./format.js";

const SPEEDS = [0.5, 1, 2, 5, 10, 60];

export class Machine {
  // `onChange(moved)` is called when the time is set, and with false when it only runs.
  constructor(place, onChange) {
    this.onChange = onChange; this.live = true; this.at = 0; this.playing = false; this.speed = 1; this.offset = 0; this.begin = null; this.limit = null; this.isLiveSource = true;
    this.play = el("button", { type: "button", "aria-label": "Play", onclick: () => this.toggle() }, "▶");
    this.slider = el("input", { type: "range", "aria-label": "Time shown", min: 0, max: 1000, step: "any", oninput: () => this.slide() });
    this.when = el("span", { class: "when" });
    this.rate = el("select", { "aria-label": "Speed", onchange: () => { this.speed = Number(this.rate.value); } }, ...SPEEDS.map((one) => el("option", { value: one, text: `${one}×` })));
    this.rate.value = "1";
    this.back = el("button", { type: "button", onclick: () => this.goLive() }, "Back to now");
    place.append(this.play, this.slider, this.when, this.rate, this.back);
  }

  // Takes the times of a source: `end` is null where it goes on.
  setSource(view, at) {
    this.isLiveSource = view.id === "live";
    this.begin = view.begin ?? null; this.limit = this.isLiveSource ? null : view.end;
    this.isEmpty = !this.isLiveSource && !view.messages;
    if (this.isEmpty) this.begin = this.limit = 0;
    this.live = this.isLiveSource && !at;
    this.at = at ? Math.min(at, this.latest()) : this.limit ?? 0;
    this.playing = false;
    this.play.disabled = this.slider.disabled = this.isEmpty;
    this.refresh();
  }

  // The streams forget: what was the beginning is gone some time later.
  setBegin(begin) { if (this.isLiveSource) { this.begin = begin ?? null; this.refresh(); } }

  serverNow() { return Date.now() + this.offset; }
  // The server's clock and this one differ; the smallest difference seen has the least delay in it.
  setServerTime(now) { const found = now - Date.now(); this.offset = Math.abs(found - this.offset) > 2000 ? found : Math.max(this.offset - 0.5, found); }
  latest() { return this.limit ?? this.serverNow(); }
  now() { return this.live ? this.serverNow() : this.at; }

  goTo(time) {
    if (this.isLiveSource && time >= this.latest() - 500) { this.goLive(); return; }
    this.live = false;
    this.at = Math.min(Math.max(time, this.begin ?? 0), this.latest());
    this.refresh();
    this.onChange(true);
  }

  goLive() {
    if (!this.isLiveSource) { this.goTo(this.limit); return; }
    this.live = true; this.playing = false;
    this.refresh();
    this.onChange(true);
  }

  toggle() {
    if (this.live) { this.live = false; this.at = this.serverNow(); this.playing = false; this.refresh(); this.onChange(true); return; }
    this.playing = !this.playing;
    if (this.playing && this.at >= this.latest() - 100) this.at = this.begin ?? this.at;
    this.refresh();
    this.onChange(true);
  }

  slide() {
    const begin = this.begin ?? this.latest() - 3600e3, share = Number(this.slider.value) / 1000;
    if (share >= 0.9995 && this.isLiveSource) this.goLive();
    else this.goTo(begin + share * (this.latest() - begin));
  }

  // Moves on with the time that passed, ms.
  tick(passed) {
    if (!this.playing) return;
    this.at += passed * this.speed;
    if (this.at >= this.latest()) {
      if (this.isLiveSource) { this.goLive(); return; }
      this.at = this.latest(); this.playing = false;
    }
    this.onChange(false);
  }

  refresh() {
    setText(this.play, this.live || this.playing ? "Ⅱ" : "▶");
    const does = this.live || this.playing ? "Pause" : "Play";
    this.play.setAttribute("aria-label", does);
    if (this.play.title !== does) this.play.title = does;
    setText(this.when, this.isEmpty ? "no message" : dateTime(this.now()) + (this.live ? ", live" : ""));
    setText(this.back, this.isLiveSource ? "Back to now" : "To the end");
    this.back.hidden = this.rate.hidden = this.live || this.isEmpty;
    const begin = this.begin ?? this.latest() - 3600e3, share = ((this.now() - begin) / (this.latest() - begin || 1)) * 1000;
    if (document.activeElement !== this.slider || !this.live) this.slider.value = String(this.live ? 1000 : share);
    this.slider.setAttribute("aria-valuetext", dateTime(this.now()));
  }
}
