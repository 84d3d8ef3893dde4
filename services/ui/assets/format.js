// Figures as text, as the command-line tools write them.

export function rate(kbit) {
  if (kbit === null || kbit === undefined) return "–";
  return kbit > 0 && kbit < 1000 ? kbit.toFixed(0) + "k" : (kbit / 1000).toFixed(1) + "M";
}

// Two rates, with three digits after the point where one would make them look equal.
export function ratePair(before, after) {
  const texts = [rate(before), rate(after)];
  if (texts[0] !== texts[1] || before === after || typeof before !== "number" || typeof after !== "number") return texts;
  return [before, after].map((kbit) => (kbit / 1000).toFixed(3) + "M");
}

export function rateWithUnit(kbit) {
  if (kbit === null || kbit === undefined) return "–";
  return kbit > 0 && kbit < 1000 ? kbit.toFixed(0) + " kbit/s" : (kbit / 1000).toFixed(1) + " Mbit/s";
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

const two = (number) => String(number).padStart(2, "0");

export function clock(time, parts = 3) {
  const date = new Date(time);
  const seconds = parts > 2 ? ":" + two(date.getUTCSeconds()) : "";
  return two(date.getUTCHours()) + ":" + two(date.getUTCMinutes()) + seconds;
}

export function dateTime(time) {
  const date = new Date(time);
  return date.getUTCFullYear() + "-" + two(date.getUTCMonth() + 1) + "-" + two(date.getUTCDate()) + " " + clock(time) + " UTC";
}

export function percent(share) {
  return share === null || share === undefined ? "–" : Math.round(share * 100) + " %";
}

export const STATES = {
  broken: "SLO broken", unenforced: "not enforced", blind: "blind", silent: "silent",
  paused: "paused", waiting: "waiting", near: "near an SLO", good: "within SLOs",
  uncritical: "no critical Pod",
};

// Indents JSON text without reading its numbers: some have more digits than JavaScript keeps.
export function indent(json) {
  let out = "", depth = 0, quoted = false;
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (quoted) {
      out += c;
      if (c === "\\") out += json[++i] ?? "";
      else if (c === '"') quoted = false;
    } else if (c === '"') { quoted = true; out += c; }
    else if (c === "{" || c === "[") {
      const close = json[i + 1];
      if (close === "}" || close === "]") { out += c + close; i++; }
      else out += c + "\n" + "  ".repeat(++depth);
    } else if (c === "}" || c === "]") out += "\n" + "  ".repeat(--depth) + c;
    else if (c === ",") out += ",\n" + "  ".repeat(depth);
    else if (c === ":") out += ": ";
    else if (!/\s/.test(c)) out += c;
  }
  return out;
}
