// Where the page is: a name and parameters behind the #, so that every view has an address.

export function link(page, parameters = {}) {
  const given = Object.entries(parameters).filter(([name, value]) => value !== null && value !== undefined && value !== "" && !(name === "s" && value === "live"));
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return "#/" + (page === "overview" ? "" : page) + (query ? "?" + query : "");
}

export function parse(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  return { page: path || "overview", parameters: Object.fromEntries(new URLSearchParams(query ?? "")) };
}
