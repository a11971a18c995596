// What scripts that drive a browser need: a headless Chromium with its security on, pages on an origin of their own, and
// a record of what the browser sent, refused and complained of.
//
// The path of the browser comes in BROWSER. No part needs a network.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { chromium } from "playwright-core";

const PATIENCE_MS = 60_000; // only a test that fails waits as long
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript" };

/** A browser without the features that would contact its maker. As root it has no sandbox. */
export function openBrowser() {
  return chromium.launch({
    executablePath: process.env.BROWSER,
    args: [
      "--no-sandbox",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/**
 * Serve a folder on a free port. `extra`: other answers by path, a file's path or { type, body }. The answers carry no
 * CORS headers.
 */
export async function servePages(folder, extra = {}) {
  const server = createServer(async (incoming, outgoing) => {
    const path = new URL(incoming.url, "http://page").pathname;
    const answer = extra[path] ?? join(folder, path === "/" ? "index.html" : normalize(path));
    try {
      const isFile = typeof answer === "string";
      const body = isFile ? await readFile(answer) : answer.body;
      const type = isFile ? TYPES[extname(answer)] : answer.type;
      outgoing.writeHead(200, { "content-type": type ?? "application/octet-stream" }).end(body);
    } catch {
      outgoing.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => new Promise((resolve) => server.close(resolve).closeAllConnections());
  return { origin: `http://localhost:${server.address().port}`, close };
}

/** Open a page in a profile of its own, and record what it does. */
export async function openPage(browser, url) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const seen = await record(page);
  await page.goto(url);
  return { page, seen, until: (selector, pattern) => until(page, seen, selector, pattern) };
}

/** Wait until the element's text matches; the text. */
async function until(page, seen, selector, pattern) {
  const matches = ([css, source]) => new RegExp(source).test(document.querySelector(css)?.textContent ?? "");
  try {
    await page.waitForFunction(matches, [selector, pattern.source], { timeout: PATIENCE_MS });
  } catch (error) {
    const body = await page.textContent("body");
    throw new Error(`${selector} is not ${pattern} in ${body}; the console: ${seen.complaints}`, { cause: error });
  }
  return page.textContent(selector);
}

/**
 * `requests` with their method, url and origin; `preflights` likewise, which Playwright's own events leave out;
 * `complaints`: errors on the console and exceptions that nobody caught.
 */
async function record(page) {
  const seen = { requests: [], preflights: [], complaints: [] };
  const byId = new Map();
  page.on("console", (message) => message.type() === "error" && seen.complaints.push(message.text()));
  page.on("pageerror", (error) => seen.complaints.push(String(error)));
  const devtools = await page.context().newCDPSession(page);
  devtools.on("Network.requestWillBeSent", ({ requestId, request }) => {
    const { method, url } = request;
    const known = Object.assign(byId.get(requestId) ?? {}, { method, url });
    byId.set(requestId, known);
    (method === "OPTIONS" ? seen.preflights : seen.requests).push(known);
  });
  // The headers that went over the wire, in an event of their own, which may come first.
  devtools.on("Network.requestWillBeSentExtraInfo", ({ requestId, headers }) => {
    const known = byId.get(requestId) ?? {};
    byId.set(requestId, Object.assign(known, { origin: headers.Origin ?? headers.origin }));
  });
  await devtools.send("Network.enable");
  return seen;
}
