// Builds elements.  Every text goes in as text: no name can become markup.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((one) => one !== null && one !== undefined));
  return node;
}

// Writes only what differs, so that an update costs nothing where nothing changed.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// Control characters and those that reverse the direction of text are shown as what they are.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

export function clean(text) {
  return String(text).replace(HIDDEN, (found) => "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0"));
}

export function nameOf(text, kind = "name") {
  const shown = clean(text);
  return el("bdi", { class: kind, title: shown.length > 40 ? shown : null, text: shown });
}

// A table that a narrow screen lays out as blocks, and that stays a table for a screen reader.
export function tableOf(heads, numeric, body) {
  const cells = heads.map((name) => el("th", { scope: "col", role: "columnheader", class: numeric.includes(name) ? "n" : null, text: name }));
  body.setAttribute("role", "rowgroup");
  return el("div", { class: "scroll" }, el("table", { class: "rows", role: "table" }, el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...cells)), body));
}

export function rowOf(...cells) {
  cells.forEach((cell) => cell.setAttribute("role", "cell"));
  return el("tr", { role: "row" }, ...cells);
}
