// Validates the AsyncAPI document with AsyncAPI's own parser; prints what channels it has.
//   node document.mjs schemas/asyncapi.json
import { Parser, fromFile } from "@asyncapi/parser";

const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const faults = diagnostics.filter((one) => one.severity <= 1 && one.code !== "asyncapi-latest-version");
for (const one of faults) console.error(`${one.path.join(".")}: ${one.message} (${one.code})`);
if (!document || faults.length) process.exit(1);
const channels = document.channels().all().map((channel) => ({
  address: channel.address(),
  messages: channel.messages().all().map((message) => message.name()),
}));
console.log(JSON.stringify(channels));
