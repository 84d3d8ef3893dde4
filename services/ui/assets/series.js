// A domain's curves as the plots take them, and how updates are added to them.

import { firstFrom } from "./plot.js";

const LOOKS = {
  p95: { colours: ["--c0", "--c1", "--c2", "--c3", "--c4"] },
  jitter: { colours: ["--c0", "--c1", "--c2", "--c3", "--c4"] },
  limit: { colours: ["--c2", "--c3", "--c4", "--c0", "--c1"], step: true, width: 2.4 },
  sent: { colours: ["--c2", "--c3", "--c4", "--c0", "--c1"], dash: "dots", width: 1.6 },
  shadow: { colours: ["--c1", "--c0", "--c4"], step: true, dash: "dash", width: 1.4 },
  safe: { colours: ["--c5"], step: true, dash: "dash", width: 1.6 },
  expected: { colours: ["--c5"], step: true, dash: "dots", width: 1.4 },
};
const WORDS = { limit: "limit", sent: "sent", shadow: "in the shadow", safe: "safe load (the knee)", expected: "critical load to come", p95: "", jitter: "" };

const TRIMMED = 256, LEAST_GAP_MS = 15000, ENOUGH = 8;

export function labelOf(one) {
  return one.label ?? (one.name ? `${one.name} ${WORDS[one.kind]}`.trim() : WORDS[one.kind]);
}

function overlaps(a, b) { return a.begin <= b.end + 1 && b.begin <= a.end + 1; }

export class History {
  constructor() { this.curves = new Map(); this.known = new Set(); this.marks = []; this.times = []; this.shades = []; this.version = 0; }

  replace(found) {
    this.curves.clear(); this.known.clear(); this.marks = []; this.times = []; this.shades = [];
    this.merge(found, 0);
    for (const curve of this.curves.values()) measureSteps(curve);
  }

  // Adds what is new, and forgets what is older than `oldest`.
  merge(found, oldest) {
    for (const one of found.series) {
      const id = `${one.kind} ${one.name}`;
      let curve = this.curves.get(id);
      if (!curve) {
        const look = LOOKS[one.kind], same = [...this.curves.values()].filter((other) => other.kind === one.kind).length;
        curve = { ...look, id, kind: one.kind, name: one.name, colour: look.colours[same % look.colours.length], t: [], v: [] };
        this.curves.set(id, curve);
      }
      one.t.forEach((time, i) => add(curve, time, one.v[i]));
      trim(curve, oldest);
      if (!curve.usual && curve.t.length > ENOUGH) measureSteps(curve);
    }
    this.mergeMarks(found.marks, oldest);
    for (const span of found.broken) this.shade({ ...span, blind: false });
    for (const span of found.blind) this.shade({ ...span, blind: true });
    if (oldest) this.shades = this.shades.filter((shade) => shade.end >= oldest);
    this.version++;
  }

  mergeMarks(found, oldest) {
    let changed = false;
    for (const one of found) {
      const key = `${one.id} ${one.target}`;
      if (this.known.has(key) || one.t < oldest) continue;
      this.known.add(key);
      this.marks.push({ ...one, key });
      changed = true;
    }
    if (changed) this.marks.sort((a, b) => a.t - b.t);
    const gone = this.marks.findIndex((mark) => mark.t >= oldest);
    if (gone > TRIMMED) {
      this.marks.splice(0, gone).forEach((mark) => this.known.delete(mark.key));
      changed = true;
    }
    if (changed) this.times = this.marks.map((mark) => mark.t);
  }

  shade(span) {
    const last = this.shades.findLast((one) => one.blind === span.blind && overlaps(one, span));
    if (last) { last.begin = Math.min(last.begin, span.begin); last.end = Math.max(last.end, span.end); if (span.what) last.what = span.what; }
    else this.shades.push(span);
  }

  series(...kinds) { return kinds.flatMap((kind) => [...this.curves.values()].filter((one) => one.kind === kind)); }
}

function add(curve, time, value) {
  const last = curve.t.length - 1;
  if (last < 0 || curve.t[last] < time) { curve.t.push(time); curve.v.push(value); return; }
  const i = firstFrom(curve.t, time);
  if (curve.t[i] === time) curve.v[i] = value;
  else { curve.t.splice(i, 0, time); curve.v.splice(i, 0, value); }
}

// The usual time between two points, and the longest that a line may join, ms: those of a long time lie far apart.
function measureSteps(curve) {
  const steps = curve.t.slice(1).map((time, i) => time - curve.t[i]).sort((a, b) => a - b);
  curve.usual = steps[steps.length >> 1];
  curve.gap = Math.max(LEAST_GAP_MS, 3 * (curve.usual ?? 0));
}

// Trims a curve in large steps: to move thousands of points for each new one would be slow.
function trim(curve, oldest) {
  const gone = firstFrom(curve.t, oldest);
  if (gone > TRIMMED) { curve.t.splice(0, gone); curve.v.splice(0, gone); }
}

export function plain(list, label, look = {}) {
  const curves = list.map((one, i) => ({ ...LOOKS[one.kind], ...look, id: `${label} ${one.name}`, kind: one.kind, name: one.name, label: `${one.name} ${label}`.trim(), colour: look.colour ?? LOOKS[one.kind].colours[i % 5], t: one.t, v: one.v }));
  curves.forEach(measureSteps);
  return curves;
}
