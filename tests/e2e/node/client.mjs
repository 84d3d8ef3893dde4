// Taps the bus with NATS's own client, validates every message against the published schemas, and
// follows the trace from each sample to its decision and actions.
//   node client.mjs nats://HOST:PORT SCHEMAS SAMPLES
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "@nats-io/transport-node";
import { DeliverPolicy, jetstream } from "@nats-io/jetstream";
import Ajv from "ajv/dist/2020.js";

const [server, folder, wanted] = process.argv.slice(2);
const read = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));
const document = read("asyncapi.json");
const ajv = new Ajv({ allErrors: true });
const kinds = Object.entries(document.channels).map(([kind, channel]) => ({
  kind,
  stream: channel.description.match(/Stream (\w+)/)[1],
  address: new RegExp(`^${channel.address.replaceAll(".", "\\.").replace(/\{\w+\}/g, "[A-Za-z0-9_=-]+")}$`),
  headers: document.components.messages[kind].headers.required,
  valid: ajv.compile(read(`${kind}.v1.json`)),
}));

const counts = {};
const faults = [];
const traces = new Map();

function check({ kind, address, headers, valid }, message) {
  counts[kind] = (counts[kind] ?? 0) + 1;
  const body = message.json();
  if (!address.test(message.subject)) faults.push(`${message.subject}: no address of ${kind}s`);
  if (!valid(body)) faults.push(`${message.subject} ${message.seq}: ${ajv.errorsText(valid.errors)}`);
  for (const name of headers) if (!message.headers?.has(name)) faults.push(`${message.subject}: no ${name}`);
  if (kind === "dead") return;
  const [, trace] = message.headers.get("traceparent").split("-");
  const found = traces.get(trace) ?? { samples: [], decisions: [], actions: [] };
  found[`${kind}s`].push(body);
  traces.set(trace, found);
}

function follow({ samples, decisions, actions }) {
  const [sample] = samples;
  if (samples.length !== 1) return faults.push(`a trace with ${samples.length} samples`);
  for (const decision of decisions) {
    if (decision.sample !== `${sample.domain}:${sample.end}`) faults.push(`${decision.sample} is not of its trace`);
  }
  for (const action of actions.filter((one) => one.decision)) {
    const causes = decisions.map((one) => `${one.sample}:${one.policy}`);
    if (!causes.includes(action.decision)) faults.push(`${action.decision} is not of the trace of ${action.id}`);
  }
}

const connection = await connect({ servers: server });
const js = jetstream(connection);
for (const kind of kinds) {
  const consumer = await js.consumers.get(kind.stream, { deliver_policy: DeliverPolicy.All });
  const { num_pending: stored } = await consumer.info();
  if (!stored) continue;
  let left = stored;
  for await (const message of await consumer.consume()) {
    check(kind, message);
    if (--left === 0) break;
  }
}
await connection.close();
for (const trace of traces.values()) follow(trace);
const whole = [...traces.values()].filter((one) => one.samples.length && one.decisions.length && one.actions.length);
console.log(JSON.stringify({ counts, traces: traces.size, whole: whole.length, faults }));
process.exit(faults.length || (counts.sample ?? 0) < Number(wanted) ? 1 : 0);
