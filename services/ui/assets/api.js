// The JSON API, by addresses relative to the page: it may stand behind any path.

async function read(answer) {
  const body = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error(body.error || `${answer.status} ${answer.statusText}`);
  return body;
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? "?" + new URLSearchParams(given) : "";
}

export async function get(path, parameters = {}, signal = undefined) {
  return read(await fetch("api/v1/" + path + query(parameters), { signal }));
}

export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return read(await fetch("api/v1/" + path, { method: "POST", headers, body: JSON.stringify(body) }));
}

export async function upload(file) {
  const headers = { "Content-Type": "application/octet-stream" };
  return read(await fetch("api/v1/recordings" + query({ name: file.name.slice(0, 255) }), { method: "POST", headers, body: file }));
}

// Listens to events until closed; the browser reconnects by itself.
export function listen(domain, handlers) {
  const source = new EventSource("api/v1/events" + query({ domain }));
  for (const name of ["overview", "history", "resync", "alive"]) {
    source.addEventListener(name, (event) => handlers[name]?.(JSON.parse(event.data)));
  }
  source.onopen = () => handlers.open?.();
  source.onerror = () => handlers.lost?.();
  return source;
}
