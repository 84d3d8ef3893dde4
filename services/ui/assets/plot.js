// A plot over time on a canvas: lines and steps, objectives, shaded times, marks.  All plots of a page share a cursor.

import { clock, ms, rate } from "./format.js";

// Sizes in the root's font size, so that a wall screen's labels have the room that they need.
const REM = { left: 4.2, right: 1, top: 0.6, bottom: 1.65, tick: 6, near: 1 };
const USUAL_PX = 14.5;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200].map((s) => s * 1000);
const DASHES = { dash: [6, 4], dots: [2, 3] };
const MARKS = { raise: "--c2", lower: "--c1", cut: "--bad", "no-data": "--near", fault: "--bad", failed: "--bad", autonomous: "--c3", paused: "--near" };
let palette = null, remPx = 0;

function colour(name) {
  if (palette === null) palette = { style: getComputedStyle(document.documentElement), found: {} };
  return (palette.found[name] ??= palette.style.getPropertyValue(name).trim() || name);
}

// The root's font size depends on the window's width.
function rem(count = 1) {
  if (!remPx) remPx = parseFloat(getComputedStyle(document.documentElement).fontSize) || USUAL_PX;
  return remPx * count;
}

// How much thicker than usual lines and marks are.
function thick(width) { return width * Math.max(rem() / USUAL_PX, 0.9); }

addEventListener("resize", () => {
  remPx = 0;
  dispatchEvent(new Event("sluice:theme"));
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  palette = null;
  dispatchEvent(new Event("sluice:theme"));
});

// The first index whose time is not before `time`.
export function firstFrom(times, time) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1; else high = middle;
  }
  return low;
}

// Whether a line goes on from the point before: not over a long time without points, and not over one without data.
export function joins(one, i, blind) {
  const from = one.t[i - 1], step = one.t[i] - from;
  if (one.step) return true;
  if (step > (one.gap ?? 15000)) return false;
  return !(step > 1.5 * (one.usual ?? Infinity) && blind.some((span) => span.begin < one.t[i] && span.end > from));
}

// The browser reports sizes: to ask for them between two changes would lay the page out again each time.
const boxes = new WeakMap();
const sizes = new ResizeObserver((entries) => entries.forEach((entry) => boxes.set(entry.target, entry.contentRect)));

export function fit(canvas) {
  let box = boxes.get(canvas);
  if (!box) { box = canvas.getBoundingClientRect(); boxes.set(canvas, box); sizes.observe(canvas); }
  const scale = devicePixelRatio || 1;
  const width = Math.round(box.width * scale), height = Math.round(box.height * scale);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, box.width, box.height);
  return [context, box.width, box.height];
}

// A small curve without axes: `full` is the line that must not be crossed.
export function spark(canvas, times, values, { full = null, top = null, line = "--c0", under = null, step = false } = {}) {
  const [context, width, height] = fit(canvas);
  if (times.length < 2) return;
  const known = values.filter((one) => one !== null), others = (under ?? []).filter((one) => one !== null);
  const most = Math.max(top ?? 0, full === null ? 0 : full * 1.25, ...known, ...others) || 1;
  const cap = full === null ? most : Math.min(most, full * 3);
  const begin = times[0], span = times[times.length - 1] - begin || 1;
  const x = (time) => ((time - begin) / span) * (width - 4) + 2;
  const y = (value) => height - 3 - (Math.min(value, cap) / cap) * (height - 8);
  if (full !== null) {
    context.fillStyle = colour("--bad-shade");
    // Each window stands for the time since the one before.
    times.forEach((time, i) => {
      const from = Math.min(i ? x(times[i - 1]) : 0, x(time) - 3);
      if (values[i] !== null && values[i] > full) context.fillRect(from, 0, x(time) - from, height);
    });
    context.strokeStyle = colour("--bad");
    context.setLineDash([thick(5), thick(4)]);
    context.lineWidth = thick(1.2);
    context.beginPath(); context.moveTo(0, y(full)); context.lineTo(width, y(full)); context.stroke();
    context.setLineDash([]);
  }
  const trace = (list, ink, fill, stepped) => {
    context.beginPath();
    let down = false;
    list.forEach((value, i) => {
      if (value === null) { down = false; return; }
      if (down && stepped) context.lineTo(x(times[i]), y(list[i - 1]));
      if (down) context.lineTo(x(times[i]), y(value)); else context.moveTo(x(times[i]), y(value));
      down = true;
    });
    context.strokeStyle = colour(ink); context.lineWidth = thick(1.8); context.lineJoin = "round";
    context.stroke();
    if (fill && list.every((one) => one !== null)) {
      context.lineTo(x(times[times.length - 1]), height); context.lineTo(x(times[0]), height);
      context.globalAlpha = 0.16; context.fillStyle = colour(ink); context.fill(); context.globalAlpha = 1;
    }
  };
  if (under) trace(under, "--c1", true, false);
  trace(values, line, !under && full === null, step);
}

export class Plot {
  // `options`: label, log, height (CSS), format, onCursor(time, event), onPan(milliseconds), onPick(mark).
  constructor(options) {
    this.options = options;
    this.canvas = document.createElement("canvas");
    this.canvas.style.height = options.height;
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", options.label);
    this.series = []; this.lines = []; this.shades = []; this.marks = [];
    this.begin = 0; this.end = 1; this.cursor = null; this.picked = null;
    this.top = 0; this.bottom = 0; this.drawn = "";
    this.size = new ResizeObserver(() => this.draw(true));
    this.size.observe(this.canvas);
    fit(this.canvas);
    this.onTheme = () => this.draw(true);
    addEventListener("sluice:theme", this.onTheme);
    this.listen();
  }

  close() {
    this.size.disconnect();
    removeEventListener("sluice:theme", this.onTheme);
  }

  get left() { return rem(REM.left); }
  get plotWidth() { return Math.max((boxes.get(this.canvas)?.width ?? 300) - this.left - rem(REM.right), 10); }
  x(time) { return this.left + ((time - this.begin) / (this.end - this.begin)) * this.plotWidth; }
  time(x) { return this.begin + ((x - this.left) / this.plotWidth) * (this.end - this.begin); }

  y(value, height) {
    const inner = height - rem(REM.top + REM.bottom);
    const part = this.options.log
      ? Math.log(Math.max(value, this.bottom) / this.bottom) / Math.log(this.top / this.bottom)
      : (value - this.bottom) / (this.top - this.bottom);
    return rem(REM.top) + inner * (1 - Math.min(Math.max(part, 0), 1.02));
  }

  listen() {
    let drag = null;
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, moved: false }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (drag && event.buttons) {
        const moved = event.clientX - drag.x;
        if (Math.abs(moved) > 3 || drag.moved) {
          drag.moved = true; drag.x = event.clientX;
          this.options.onPan?.((-moved / this.plotWidth) * (this.end - this.begin));
          return;
        }
      }
      this.point(event);
    });
    canvas.addEventListener("pointerup", (event) => {
      const clicked = drag && !drag.moved;
      drag = null;
      if (!clicked) return;
      this.point(event);
      if (this.picked && event.pointerType === "mouse") this.options.onPick?.(this.picked);
    });
    // A finger that is lifted leaves what it tapped on the page.
    canvas.addEventListener("pointerleave", (event) => { if (!drag && event.pointerType !== "touch") this.options.onCursor?.(null, null); });
    canvas.addEventListener("blur", () => this.options.onCursor?.(null, null));
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    this.picked = this.findMark(x, y);
    this.options.onCursor?.(this.picked ? this.picked.t : this.time(x), { x: event.clientX, y: event.clientY, mark: this.picked });
  }

  findMark(x, y) {
    let best = null, least = rem(REM.near);
    for (const mark of this.marks) {
      const distance = Math.hypot(this.x(mark.t) - x, this.y(mark.limit, this.canvas.clientHeight) - y);
      if (distance < least) { best = mark; least = distance; }
    }
    return best;
  }

  press(event) {
    const shown = this.marks.filter((mark) => mark.t >= this.begin && mark.t <= this.end);
    const at = shown.findIndex((mark) => this.isPicked(mark));
    const steps = { ArrowLeft: at < 0 ? shown.length - 1 : at - 1, ArrowRight: at + 1, Home: 0, End: shown.length - 1 };
    if (event.key in steps && event.shiftKey) this.options.onPan?.(((event.key === "ArrowLeft" ? -1 : 1) * (this.end - this.begin)) / 10);
    else if (event.key in steps && shown.length) this.show(shown[Math.min(Math.max(steps[event.key], 0), shown.length - 1)]);
    else if (event.key === "Enter" && this.picked) this.options.onPick?.(this.picked);
    else if (event.key === "Escape") { this.picked = null; this.options.onCursor?.(null, null); }
    else return;
    event.preventDefault();
  }

  // Loading the same marks again makes new objects, and one decision has a mark for each target.
  isPicked(mark) { return this.picked !== null && mark.key === this.picked.key; }

  show(mark) {
    this.picked = mark;
    const box = this.canvas.getBoundingClientRect();
    this.options.onCursor?.(mark.t, { x: box.left + this.x(mark.t), y: box.top + this.y(mark.limit, box.height), mark, keyboard: true });
  }

  setWindow(begin, end) { this.begin = begin; this.end = end; }

  // Values of all series at a time.
  valuesAt(time) {
    return this.series.map((one) => {
      const i = firstFrom(one.t, time + 1) - 1;
      const near = i >= 0 && (one.step || time - one.t[i] < Math.max((this.end - this.begin) / 40, 3000));
      return { ...one, value: near ? one.v[i] : null };
    });
  }

  // Draws unless nothing moved by half a pixel since the last time.
  draw(always = false) {
    const state = [Math.round((this.begin / (this.end - this.begin)) * this.plotWidth * 2), this.end - this.begin, this.version, this.cursor, this.picked?.key].join();
    if (!always && state === this.drawn) return false;
    this.drawn = state;
    const [context, width, height] = fit(this.canvas);
    this.scale();
    context.font = `${Math.max(11, Math.round(rem(0.78)))}px system-ui, "DejaVu Sans", sans-serif`;
    this.drawGrid(context, width, height);
    context.save();
    context.beginPath(); context.rect(this.left, 0, this.plotWidth, height - rem(REM.bottom) + 1); context.clip();
    this.drawShades(context, height);
    for (const one of this.series) this.drawSeries(context, one, height);
    this.drawLines(context, width, height);
    this.drawMarks(context, height);
    if (this.cursor !== null) {
      const x = this.x(this.cursor);
      context.strokeStyle = colour("--soft"); context.lineWidth = thick(1); context.setLineDash([]);
      context.beginPath(); context.moveTo(x, rem(REM.top)); context.lineTo(x, height - rem(REM.bottom)); context.stroke();
    }
    context.restore();
    return true;
  }

  scale() {
    let least = Infinity, most = -Infinity;
    for (const one of this.series) {
      for (let i = Math.max(firstFrom(one.t, this.begin) - 1, 0); i < one.t.length && one.t[i] <= this.end; i++) {
        const value = one.v[i];
        if (value === null) continue;
        if (value < least) least = value;
        if (value > most) most = value;
      }
    }
    for (const line of this.lines.filter((one) => !one.far || one.v < most * 1.7)) { least = Math.min(least, line.v); most = Math.max(most, line.v); }
    if (most === -Infinity) { least = 0.1; most = 1; }
    if (this.options.log) {
      this.bottom = 10 ** (Math.floor(Math.log10(Math.max(least * 0.8, 0.001)) * 3) / 3);
      this.top = 10 ** (Math.ceil(Math.log10(Math.max(most * 1.15, this.bottom * 2)) * 3) / 3);
    } else {
      this.bottom = 0;
      this.top = most * 1.08 || 1;
    }
  }

  ticksY() {
    if (this.options.log) {
      const ticks = [];
      for (let power = Math.floor(Math.log10(this.bottom)); power <= Math.log10(this.top); power++) {
        for (const part of [1, 2, 5]) {
          const tick = part * 10 ** power;
          if (tick >= this.bottom && tick <= this.top) ticks.push(tick);
        }
      }
      return ticks.length > 7 ? ticks.filter((tick) => Math.abs(Math.log10(tick) % 1) < 1e-9) : ticks;
    }
    const rough = this.top / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((one) => one >= rough);
    return Array.from({ length: Math.floor(this.top / step) + 1 }, (_, i) => i * step);
  }

  drawGrid(context, width, height) {
    const { left } = this, top = rem(REM.top), bottom = height - rem(REM.bottom), right = width - rem(REM.right);
    context.strokeStyle = colour("--grid"); context.fillStyle = colour("--soft"); context.lineWidth = 1; context.setLineDash([]);
    context.textBaseline = "middle"; context.textAlign = "right";
    for (const tick of this.ticksY()) {
      const y = Math.round(this.y(tick, height)) + 0.5;
      context.beginPath(); context.moveTo(left, y); context.lineTo(right, y); context.stroke();
      context.fillText(this.options.format(tick), left - rem(0.5), y);
    }
    const step = STEPS.find((one) => ((this.end - this.begin) / one) * rem(REM.tick) < this.plotWidth) ?? 86400e3;
    context.textBaseline = "top"; context.textAlign = "center";
    for (let time = Math.ceil(this.begin / step) * step; time <= this.end; time += step) {
      const x = this.x(time);
      context.beginPath(); context.moveTo(x, top); context.lineTo(x, bottom); context.stroke();
      if (x > left + rem(0.9) && x < right - rem(1.3)) context.fillText(clock(time, step < 60000 ? 3 : 2), x, bottom + rem(0.4));
    }
  }

  drawShades(context, height) {
    const top = rem(REM.top), bottom = height - rem(REM.bottom);
    for (const shade of this.shades) {
      if (shade.end < this.begin || shade.begin > this.end) continue;
      const x = this.x(shade.begin), width = Math.max(this.x(shade.end) - x, 2);
      context.fillStyle = colour(shade.blind ? "--blind-shade" : "--bad-shade");
      context.fillRect(x, top, width, bottom - top);
    }
  }

  drawSeries(context, one, height) {
    const from = Math.max(firstFrom(one.t, this.begin) - 1, 0);
    context.beginPath();
    const blind = this.shades.filter((shade) => shade.blind);
    let down = false, last = 0, lastTime = 0;
    for (let i = from; i < one.t.length; i++) {
      const value = one.v[i];
      if (value === null || (down && !joins(one, i, blind))) { down = false; if (value === null) continue; }
      const x = this.x(one.t[i]), y = this.y(value, height);
      if (!down) context.moveTo(x, y);
      else if (one.step) { context.lineTo(x, last); context.lineTo(x, y); }
      else context.lineTo(x, y);
      down = true; last = y; lastTime = one.t[i];
      if (one.t[i] > this.end) break;
    }
    // A limit holds until the next decision.
    if (down && one.step && lastTime < this.end) context.lineTo(this.x(Math.min(this.end, one.until ?? this.end)), last);
    context.strokeStyle = colour(one.colour); context.lineWidth = thick(one.width ?? 1.8); context.lineJoin = "round";
    context.setLineDash((DASHES[one.dash] ?? []).map(thick));
    context.stroke();
    context.setLineDash([]);
  }

  drawLines(context, width, height) {
    context.textBaseline = "bottom"; context.textAlign = "left";
    for (const line of this.lines) {
      const y = Math.round(this.y(line.v, height)) + 0.5;
      context.strokeStyle = context.fillStyle = colour(line.colour ?? "--bad"); context.lineWidth = thick(1.4); context.setLineDash(DASHES.dash.map(thick));
      context.beginPath(); context.moveTo(this.left, y); context.lineTo(width - rem(REM.right), y); context.stroke();
      context.setLineDash([]);
      context.fillText(line.label, this.left + rem(0.35), y - thick(2));
    }
  }

  drawMarks(context, height) {
    const shown = this.marks.filter((mark) => mark.t >= this.begin && mark.t <= this.end);
    // What is picked is drawn last, over its neighbours.
    for (const mark of shown) if (!this.isPicked(mark)) this.drawMark(context, mark, height, false);
    for (const mark of shown) if (this.isPicked(mark)) this.drawMark(context, mark, height, true);
  }

  drawMark(context, mark, height, big) {
    const x = this.x(mark.t), y = this.y(mark.limit, height), size = (small, large) => thick(big ? large : small);
    context.fillStyle = colour(MARKS[mark.kind] ?? "--c5");
    context.beginPath();
    if (mark.kind === "cut") { const r = size(4.5, 8); context.moveTo(x - r, y - r); context.lineTo(x + r, y - r); context.lineTo(x, y + r); context.closePath(); }
    else if (mark.kind === "raise" || mark.kind === "lower") context.arc(x, y, size(2.4, 6), 0, 7);
    else { const r = size(5, 8); context.moveTo(x, y - r); context.lineTo(x + r, y); context.lineTo(x, y + r); context.lineTo(x - r, y); context.closePath(); }
    context.fill();
    if (big) { context.strokeStyle = colour("--ink"); context.lineWidth = thick(1.5); context.stroke(); }
  }
}

export const formats = { ms, rate };
