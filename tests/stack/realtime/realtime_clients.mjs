// supabase-js against the local Realtime server. Reads commands from stdin, one JSON per line, and writes what
// happens to stdout, one JSON per line: the Python test drives it and compares.
//
// Settings come from the environment: URL, KEY, TOKEN, VSN, NAME (of the topic and the table).

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import path from "node:path";

// Packages live where the test says, not next to this file.
const require = createRequire(path.join(process.env.RUNHOLD_TEST_NODE_MODULES, "package.json"));
const { createClient } = require("@supabase/supabase-js");
const transport = require("ws");

const { URL: url, KEY: key, TOKEN: token, VSN: vsn, NAME: name } = process.env;
const tell = (event, detail) => process.stdout.write(JSON.stringify({ event, detail }) + "\n");

const options = { transport, ...(vsn ? { vsn } : {}) };
const make = () => createClient(url, key, { realtime: options, auth: { persistSession: false } });
const client = make();
const other = make();

const joined = (channel, label) =>
  new Promise((resolve) => {
    channel.subscribe((status, error) => {
      tell(`status:${label}`, { status, error: error?.message ?? null });
      if (status === "SUBSCRIBED") resolve();
    });
  });

const changes = client
  .channel(`${name}_changes`)
  .on("system", {}, (payload) => tell("system", payload))
  .on("postgres_changes", { event: "INSERT", schema: "public", table: name }, (p) => tell("insert", p))
  .on("postgres_changes", { event: "*", schema: "public", table: name }, (p) => tell("any", p.eventType))
  .on("postgres_changes", { event: "UPDATE", schema: "public", table: name, filter: "id=eq.2" }, (p) =>
    tell("filtered", { new: p.new, old: p.old }),
  );
const selected = client
  .channel(`${name}_select`)
  .on("system", {}, (payload) => tell("system", payload))
  .on("postgres_changes", { event: "INSERT", schema: "public", table: name, select: ["title"] }, (p) =>
    tell("selected", p.new),
  );
const config = { config: { broadcast: { ack: true, self: false } } };
const sender = client.channel(name, config);
const receiver = other.channel(name).on("broadcast", { event: "*" }, (p) => tell("broadcast", p));
const presence = client.channel(`${name}_presence`).on("presence", { event: "sync" }, () => tell("sync", {}));

const actions = {
  async join() {
    await joined(changes, "changes");
    await joined(selected, "selected");
    await joined(sender, "sender");
    await joined(receiver, "receiver");
    await joined(presence, "presence");
    tell("joined", null);
  },
  async broadcast() {
    tell("sent", await sender.send({ type: "broadcast", event: "json", payload: { n: 1, text: "ä" } }));
    tell("sent", await sender.httpSend("rest/one", { n: 2 }));
    const unjoined = client.channel(`${name}`.concat("_unjoined"));
    tell("sent", await unjoined.send({ type: "broadcast", event: "rest", payload: { n: 3 } }));
  },
  async track() {
    tell("tracked", await presence.track({ x: 1 }));
  },
  async private() {
    await client.realtime.setAuth(token);
    await joined(client.channel(`${name}_private`, { config: { private: true } }), "private");
  },
  async leave() {
    for (const channel of [changes, selected, sender, presence]) tell("left", await client.removeChannel(channel));
    tell("left", await other.removeChannel(receiver));
    process.exit(0);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const action = JSON.parse(line);
  actions[action]().catch((error) => {
    tell("failed", { action, error: String(error) });
    process.exit(1);
  });
}
