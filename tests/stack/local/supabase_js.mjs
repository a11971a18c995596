// Run by test_supabase_js.py: what a frontend does, with the real supabase-js. Prints one JSON object.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.NODE_MODULES_FOLDER, "from.js"));
const { createClient } = require("@supabase/supabase-js");
const { SUPABASE_URL: url, SUPABASE_PUBLISHABLE_KEY: key, SUPABASE_SECRET_KEY: secret } = process.env;
const quiet = { auth: { persistSession: false, autoRefreshToken: false }, realtime: { transport: require("ws") } };

const must = ({ data, error }) => {
  if (error) throw new Error(`${error.code}: ${error.message}`);
  return data;
};

const email = `${crypto.randomUUID()}@example.com`;
const client = createClient(url, key, quiet);
const said = {};
const signedUp = must(await client.auth.signUp({ email, password: "correct horse" }));
said.user = signedUp.user.id;
said.known = must(await client.auth.getUser()).user.id;
said.wrong = (await createClient(url, key, quiet).auth.signInWithPassword({ email, password: "wrong" })).error.code;

must(await client.from("lt_notes").insert({ body: "from js" }));
said.notes = must(await client.from("lt_notes").select("body, state").order("body"));
said.forbidden = (await client.from("lt_notes").insert({ body: "x", state: "done" })).error.code;
said.who = must(await client.rpc("lt_who")).role;
said.echo = must(await client.rpc("lt_echo_jsonb", { value: { a: [1, "two", null] } }));
said.refusal = (await client.rpc("lt_raise", { state: "RH001", says: "No.", hint: "Later." })).error;
said.counted = (await client.from("lt_notes").select("id", { count: "exact", head: true })).count;

const service = createClient(url, secret, quiet);
said.serviceRole = must(await service.rpc("lt_who")).role;

// Realtime through the API's origin: a broadcast from one client to another.
const listener = createClient(url, key, quiet);
said.broadcast = await new Promise((resolve, reject) => {
  const channel = listener.channel("lt-room");
  channel.on("broadcast", { event: "hello" }, ({ payload }) => resolve(payload));
  channel.subscribe((status, error) => {
    if (status === "SUBSCRIBED") service.channel("lt-room").httpSend("hello", { from: "service" }).catch(reject);
    else if (status !== "CLOSED") reject(error ?? new Error(status));
  });
});
await listener.removeAllChannels();

must(await client.from("lt_notes").delete().eq("body", "from js"));
await client.auth.refreshSession();
must({ data: true, error: (await client.auth.signOut()).error });
said.signedOut = (await client.auth.getUser()).data.user;
console.log(JSON.stringify(said));
process.exit(0);
