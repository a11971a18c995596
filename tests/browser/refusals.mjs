// What is refused reaches the page as what it is: a browser hides an answer without CORS headers from the page, and
// supabase-js then knows only that the fetch failed.

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openBrowser, openPage, servePages } from "./harness.mjs";

const { SUPABASE_URL: url, SUPABASE_PUBLISHABLE_KEY: key, SUPABASE_SECRET_KEY: secret } = process.env;
const here = fileURLToPath(new URL(".", import.meta.url));
const pages = await servePages(join(here, "pages"), {
  "/supabase.js": join(here, "../js/node_modules/@supabase/supabase-js/dist/umd/supabase.js"),
  "/config.json": { type: "application/json", body: JSON.stringify({ url, key, agent: "nobody", input: {} }) },
});
const browser = await openBrowser();

/** In the page: what each client call is refused with. */
async function refusals({ url, key, secret }) {
  const { createClient } = window.supabase;
  const { client } = window;
  const options = (name) => ({ auth: { storageKey: name } });
  const wrong = createClient(url, "sb_publishable_wrong", options("wrong"));
  const unsafe = createClient(url, secret, options("unsafe"));
  const of = async (doing) => {
    const { error } = await doing;
    return [error.status, error.code ?? error.message];
  };
  const status = async (path, options = {}) => {
    const headers = { apikey: key, authorization: `Bearer ${key}`, "content-type": "application/json" };
    const answer = await fetch(`${url}${path}`, { ...options, headers });
    return [answer.status, typeof (await answer.json())];
  };
  return {
    "wrong password": await of(client.auth.signInWithPassword({ email: "no@example.org", password: "wrong" })),
    "weak password": await of(client.auth.signUp({ email: "no@example.org", password: "weak" })),
    "no second factors": await of(client.auth.mfa.enroll({ factorType: "totp" })),
    "admin without the key": await of(client.auth.admin.listUsers()),
    "unknown Auth route": await status("/auth/v1/nowhere"),
    "unknown table": await status("/rest/v1/nowhere"),
    "unknown function": await status("/rest/v1/rpc/nowhere", { method: "POST", body: "{}" }),
    "no right to a table": await status("/rest/v1/agent_executions"),
    "a method that does not exist": await status("/auth/v1/signup", { method: "DELETE" }),
    "a broadcast without messages": await status("/realtime/v1/api/broadcast", { method: "POST", body: "{}" }),
    "a wrong key in Auth": await of(wrong.auth.signInWithPassword({ email: "no@example.org", password: "wrong" })),
    "a wrong key in REST": (await wrong.from("agent_executions").select()).error.message,
    "a secret key in a page": (await unsafe.from("agent_executions").select()).error.message,
  };
}

try {
  const { page, seen, until } = await openPage(browser, pages.origin);
  await until("#who", /./);
  console.log(JSON.stringify(await page.evaluate(refusals, { url, key, secret })));
  // The console tells of each refusal, and of nothing that the browser itself refused.
  for (const complaint of seen.complaints) assert.match(complaint, /^Failed to load resource: the server responded/);
} finally {
  await browser.close();
  await pages.close();
}
