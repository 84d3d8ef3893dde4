// The one tooltip of the page.

const tip = document.getElementById("tip");

// Shows content beside a place of the window; returns the element, and a number that changes with each call.
export function showTip(content, x, y) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth ? Math.max(x - box.width - 16, 6) : x + 16;
  const top = Math.min(Math.max(y - box.height / 2, 6), Math.max(innerHeight - box.height - 6, 6));
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
  tip.number = (tip.number ?? 0) + 1;
  return { node: tip, number: tip.number, x, y };
}

export function hideTip() {
  tip.hidden = true;
  tip.number = (tip.number ?? 0) + 1;
}
