// A telemetry subscriber with nothing of Stagebox in it: NATS core over a TLS WebSocket, and CBOR.
// usage: node subscriber.mjs <wss url> <identity directory> <subject pattern>
// Prints "subscribed", then one JSON line for the first record, and ends.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { wsconnect } from "@nats-io/nats-core";
import { decode } from "cborg";
import WebSocket from "ws";

const [url, identity, pattern] = process.argv.slice(2);
const tls = {
  ca: readFileSync(join(identity, "ca.pem")),
  cert: readFileSync(join(identity, "client.crt")),
  key: readFileSync(join(identity, "client.key")),
  minVersion: "TLSv1.3",
};

// RFC 8746: typed arrays of int16, little-endian (tag 77), and of int8 (tag 72); hundredths of a decibel.
const tags = [];
tags[77] = (bytes) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.byteLength / 2 }, (_, index) => view.getInt16(index * 2, true) / 100);
};
tags[72] = (bytes) => Array.from(new Int8Array(bytes), (value) => value / 100);

const bus = await wsconnect({
  servers: url,
  reconnect: false,
  wsFactory: async (address) => ({ socket: new WebSocket(address, tls), encrypted: true }),
});
const subscription = bus.subscribe(pattern, { max: 1 });
await bus.flush();
console.log("subscribed");
for await (const message of subscription) {
  const record = decode(message.data, { tags });
  console.log(
    JSON.stringify({
      subject: message.subject,
      seq: Number(record.seq),
      frames: Number(record.n),
      rate: Number(record.rate),
      peak: record.peak,
      boot: Buffer.from(record.boot).toString("hex"),
    }),
  );
}
await bus.close();
