// A user signs up, signs in, starts a run and watches it; a reviewer approves; the user signs out. Each in a browser
// profile of their own, on pages of another origin than Supabase's.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openBrowser, openPage, servePages } from "./harness.mjs";

const { SUPABASE_URL: url, SUPABASE_PUBLISHABLE_KEY: key, REVIEWER_EMAIL, PORTER_GATE } = process.env;
const here = fileURLToPath(new URL(".", import.meta.url));
const PASSWORD = "a long passphrase";

const config = JSON.stringify({ url, key, agent: "porter", input: { what: "hello" } });
const pages = await servePages(join(here, "pages"), {
  "/supabase.js": join(here, "../js/node_modules/@supabase/supabase-js/dist/umd/supabase.js"),
  "/config.json": { type: "application/json", body: config },
});
const silent = await servePages(join(here, "pages"));
const browser = await openBrowser();

async function signIn({ page, until }, email, password = PASSWORD) {
  await page.fill("#email", email);
  await page.fill("#password", password);
  await page.click("#sign-in");
  await until("#who", new RegExp(email));
}

try {
  const user = await openPage(browser, pages.origin);
  const { page, seen, until } = user;
  assert.equal(await until("#who", /./), "nobody");

  // The browser does apply its rules: what a server does not allow to this origin can't be read.
  const forbidden = (address) => fetch(address).then((answer) => answer.status, (error) => error.name);
  assert.equal(await page.evaluate(forbidden, `${silent.origin}/config.json`), "TypeError");
  assert.match(seen.complaints.splice(0).join(), /has been blocked by CORS policy/);

  const email = `user-${Date.now()}@example.org`;
  await page.fill("#email", email);
  await page.fill("#password", PASSWORD);
  await page.click("#sign-up");
  await until("#who", new RegExp(email));
  await page.click("#sign-out");
  await until("#who", /nobody/);
  await signIn(user, email);

  await page.click("#start");
  await until("#channel", /SUBSCRIBED/);
  await writeFile(PORTER_GATE, ""); // only now, so that the page hears all of it
  await until("#progress", /ada/);
  await until("#statuses", /awaiting_review/);

  const reviewer = await openPage(browser, pages.origin);
  await signIn(reviewer, REVIEWER_EMAIL);
  await reviewer.until("#reviews", /send.*hello/);
  await reviewer.page.click("#reviews button");

  assert.equal(await until("#result", /./), "Delivered.");
  await until("#statuses", /completed/);
  await reviewer.page.waitForFunction(() => document.querySelector("#reviews").children.length === 0);
  assert.equal(await reviewer.page.textContent("#refusal"), "");

  await page.click("#sign-out");
  await until("#who", /nobody/);
  await page.reload();
  assert.equal(await until("#who", /./), "nobody");

  // Nothing went wrong that only a browser would tell, and the browser asked before it sent.
  for (const someone of [user, reviewer]) {
    assert.deepEqual(someone.seen.complaints, []);
    const asked = new Set(someone.seen.preflights.map((preflight) => new URL(preflight.url).pathname));
    assert.ok(asked.has("/auth/v1/token"), [...asked].join());
    assert.ok([...asked].some((path) => path.startsWith("/rest/v1/")), [...asked].join());
    const sent = someone.seen.requests.filter((request) => request.url.startsWith(url));
    assert.ok(sent.length > 3);
    for (const request of sent) assert.equal(request.origin, pages.origin, request.url);
  }
} finally {
  await browser.close();
  await pages.close();
  await silent.close();
}
