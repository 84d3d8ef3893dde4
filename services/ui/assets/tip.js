// The one tooltip of the page.

const tip = document.getElementById("tip");

// Shows content beside a place of the window; returns the element, and a number that changes with each call.
export function showTip(content, x, y) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  placeTip(x, y);
  tip.number = (tip.number ?? 0) + 1;
  return { node: tip, number: tip.number, x, y };
}

// Beside the place; below or above it where the window is narrow.
export function placeTip(x, y) {
  const box = tip.getBoundingClientRect(), gap = 16, edge = 6;
  const within = (at, size, all) => Math.min(Math.max(at, edge), Math.max(all - size - edge, edge));
  let left = x + gap, top = y - box.height / 2;
  // Without the scroll bar.
  const { clientWidth: width, clientHeight: height } = document.documentElement;
  if (left + box.width > width - edge) left = x - gap - box.width;
  if (left < edge) {
    left = x - box.width / 2;
    top = y + gap + box.height > height - edge && y > height / 2 ? y - gap - box.height : y + gap;
  }
  tip.style.left = `${within(left, box.width, width)}px`;
  tip.style.top = `${within(top, box.height, height)}px`;
}

export function hideTip() {
  tip.hidden = true;
  tip.number = (tip.number ?? 0) + 1;
}
