// REST and Auth of the local stack: Supabase's own @supabase/lite on the stack's PostgreSQL, and the way to Realtime, under
// one origin on loopback. What lite 0.10.0 does otherwise than a hosted project is mended in the files beside this one:
//
//   database.mjs, context.mjs  grants, request context, errors          types.mjs, marks.mjs  values unchanged by JavaScript
//   rpc.mjs       function calls by PostgreSQL itself                   errors.mjs            SQLSTATEs as PostgREST answers
//   catalog.mjs   schema changes are noticed                            lite.mjs              requests and answers mended
//   keys.mjs      who is calling, broken tokens                         pool.mjs              crashes of PostgreSQL
//   cors.mjs      browsers on other origins                             plan.mjs              plans of statements
//   auth.mjs      Auth: routes and refusals; auth_admin.mjs, auth_links.mjs the admin API; auth_service.mjs bans, anonymous
//                 users, what tokens say (tokens.mjs); auth_users.mjs what these do to a user; auth_errors.mjs
//
// The configuration comes in the environment, as JSON in RUNHOLD_API. Says `api ready on http://127.0.0.1:PORT`.

import { createServer } from "node:http";
import { App } from "@supabase/lite";
import { authMiddleware } from "./auth.mjs";
import { Catalog } from "./catalog.mjs";
import { answerPreflight, isPreflight, readableAnywhere } from "./cors.mjs";
import { createAuthConnection, currentRequest, RestConnection } from "./database.mjs";
import { bodyOf, isDatabaseError, statusOf } from "./errors.mjs";
import { forwardRequest, forwardUpgrade } from "./forward.mjs";
import { Keys, refuseMalformed } from "./keys.mjs";
import { exactBody } from "./lite.mjs";
import { unmarkJson } from "./marks.mjs";
import { takePlan } from "./plan.mjs";
import { Rpc } from "./rpc.mjs";
import { authTypes } from "./types.mjs";

const MAX_BODY_BYTES = 64 * 1024 * 1024;
const KEEP_ALIVE_MS = 75_000; // longer than clients keep idle connections, so that theirs close first
const JSON_TYPE = "application/json; charset=utf-8";

const options = JSON.parse(process.env.RUNHOLD_API);
const realtime = options.realtimeUrl ? new URL(options.realtimeUrl) : null;
let origin; // known once the server listens

// For every request with a token, also to REST, lite reads the user and the session and, not finding them, lets the request
// pass as if nothing was wrong. As authenticator it may not even read them. PostgREST trusts a valid token alone, so REST
// is told that this was done; it then takes user and claims from the token, which it verifies itself.
const trustValidTokens = async (context, next) => {
  context.set("userId", "from the token");
  context.set("sessionId", "from the token");
  await next();
};

const keys = new Keys(options);
const serverOptions = {
  admin: false,
  disableStudio: true,
  apiKeys: { resolver: async (key) => keys.resolve(key) },
};
const appOptions = {
  auth: {
    enabled: true,
    jwt_secret: options.jwtSecret,
    publishable_key: options.publishableKey,
    secret_key: options.secretKey,
    ...options.auth,
    email: { enable_signup: true, enable_confirmations: false, ...options.auth.email },
  },
  // More of it is set for each request: a project changes it while the API runs.
  api: { enabled: true, pg_safe_update: true },
  storage: { enabled: false },
  studio: { enabled: false },
};

const catalog = new Catalog(options.catalogUrl, options.api);
const rest = new App({
  ...appOptions,
  connection: new RestConnection({ url: options.restUrl, catalog }),
  options: { server: { ...serverOptions, middlewares: [trustValidTokens] } },
});
const auth = new App({
  ...appOptions,
  connection: createAuthConnection(options.authUrl, authTypes),
  options: {
    server: {
      ...serverOptions,
      middlewares: [authMiddleware({ keys, jwtSecret: options.jwtSecret, settings: appOptions.auth })],
    },
  },
});
const rpc = new Rpc(catalog, rest.connection.pool);

const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS, requestTimeout: 0 }, (incoming, outgoing) => {
  if (isPreflight(incoming)) return answerPreflight(incoming, outgoing);
  if (isRealtime(incoming.url)) {
    if (realtime) forwardRequest(realtime, incoming, outgoing);
    else send(outgoing, 503, JSON.stringify({ message: "Realtime does not run in this stack." }));
    return;
  }
  serve(incoming, outgoing).catch((error) => {
    if (isDatabaseError(error)) return send(outgoing, statusOf(error), JSON.stringify(bodyOf(error)));
    if (isTooDeep(error) && !outgoing.headersSent) return send(outgoing, 413, TOO_DEEP);
    console.error(error);
    if (!outgoing.headersSent) send(outgoing, 500, JSON.stringify({ message: "The local API failed; see api.log." }));
    else outgoing.destroy();
  });
});

/** JSON nested too deeply for reading it recursively: what PostgreSQL says of it, as PostgREST passes it on. */
const TOO_DEEP = JSON.stringify({ code: "54001", details: null, hint: null, message: "stack depth limit exceeded" });

/** What a project's gateway answers to a path of no service; clients of services that are not here can parse it. */
const NO_ROUTE = JSON.stringify({ message: "no Route matched with those values" });

const REST_METHODS = new Set(["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"]);

function unsupported(method) {
  return JSON.stringify({ code: "PGRST117", details: null, hint: null, message: `Unsupported HTTP method: ${method}` });
}

function isTooDeep(error) {
  return error instanceof RangeError && /call stack/.test(error.message);
}

server.on("upgrade", (incoming, socket, head) => {
  if (realtime && isRealtime(incoming.url)) forwardUpgrade(realtime, incoming, socket, head);
  else socket.end("HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
});

function isRealtime(url) {
  return url === "/realtime/v1" || url.startsWith("/realtime/v1/") || url.startsWith("/realtime/v1?");
}

async function serve(incoming, outgoing) {
  const text = await readBody(incoming, outgoing);
  if (text === null) return;
  const url = new URL(incoming.url, origin);
  const isRest = url.pathname.startsWith("/rest/v1/");
  if (!isRest) {
    if (!/^\/auth\/v1(\/|$)/.test(url.pathname)) return send(outgoing, 404, NO_ROUTE);
    return answerByLite(auth, incoming, outgoing, url, text, (body) => body);
  }
  if (!REST_METHODS.has(incoming.method)) return send(outgoing, 405, unsupported(incoming.method));
  const refusal = refuseMalformed(incoming.headers);
  if (refusal) return send(outgoing, 401, refusal);
  const request = await describe(incoming, url);
  if (request.path.startsWith("/rpc/")) {
    const caller = keys.caller(incoming.headers);
    const name = request.path.slice("/rpc/".length);
    const answer = caller && (await rpc.call(name, request, text, caller));
    if (answer) return send(outgoing, answer.status, answer.body, answer.headers);
  }
  await catalog.introspection(request.schema); // if that is not possible, lite's answer would not say so
  const isJson = /^application\/(json|vnd\.pgrst\.object\+json)/.test(incoming.headers["content-type"] ?? "");
  const body = text && isJson ? await exactBody(request, text, catalog) : text;
  return currentRequest.run(request, () => answerByLite(rest, incoming, outgoing, url, body, unmarkJson));
}

/** A request to REST as PostgREST understands it: with the schema it is about, and whether its changes are undone. */
async function describe({ method, headers }, url) {
  const { schemas, extra_search_path, max_rows, aggregates_enabled, plan_enabled, db_tx_end } = await catalog.settings();
  Object.assign(rest.config.api, { schemas, extra_search_path, max_rows, aggregates_enabled, plan_enabled });
  const profile = method === "GET" || method === "HEAD" ? "accept-profile" : "content-profile";
  headers[profile] ??= schemas[0];
  const wish = /(?:^|[,\s])tx=(commit|rollback)\b/.exec(headers.prefer ?? "")?.[1];
  const [end, mayChoose] = [db_tx_end.split("-")[0], db_tx_end.endsWith("-allow-override")];
  if (wish && !mayChoose) headers.prefer = headers.prefer.replace(/,?\s*tx=(commit|rollback)/, "");
  return {
    method,
    path: url.pathname.slice("/rest/v1".length),
    search: url.search,
    headers,
    schema: headers[profile],
    plan: plan_enabled ? takePlan(headers) : null,
    rollback: (mayChoose && wish ? wish : end) === "rollback",
  };
}

/** Let lite answer, and mend its answer's body. */
async function answerByLite(app, incoming, outgoing, url, body, mend) {
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers)) headers.set(name, String(value));
  headers.delete("content-length");
  // PostgREST counts exactly up to max_rows and estimates beyond; lite would always estimate, without looking at the rows.
  const isEstimate = /\bcount=estimated\b/.test(incoming.headers.prefer ?? "");
  if (isEstimate) headers.set("prefer", incoming.headers.prefer.replace("count=estimated", "count=exact"));
  // Lite takes no arguments of functions from HEAD; its answer to GET has the same headers, and Node leaves the body out.
  const method = incoming.method === "HEAD" ? "GET" : incoming.method;
  const request = new Request(url, { method, headers, body: method === "GET" ? undefined : body });
  // No peer address: nobody is an administrator for coming from this machine.
  const response = await app.fetch(request, { peerAddress: null });
  const applied = response.headers.get("preference-applied");
  if (isEstimate && applied) {
    response.headers.set("preference-applied", applied.replace("count=exact", "count=estimated"));
  }
  const given = await response.text();
  const mended = mend(given);
  if (mended !== given) response.headers.delete("content-length");
  outgoing.writeHead(response.status, readableAnywhere([...response.headers]));
  outgoing.end(mended);
}

function send(outgoing, status, body, headers = {}) {
  const ofBody = body === null ? {} : { "content-type": JSON_TYPE, "content-length": Buffer.byteLength(body) };
  outgoing.writeHead(status, readableAnywhere({ ...ofBody, ...headers }));
  outgoing.end(body);
}

/** The body as text; null after answering that it is too large. */
async function readBody(incoming, outgoing) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of incoming) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) {
      send(outgoing, 413, JSON.stringify({ message: "The request's body is larger than 64 MiB." }), {
        connection: "close",
      });
      return null;
    }
    chunks.push(chunk);
  }
  return chunks.length === 1 ? chunks[0].toString() : Buffer.concat(chunks).toString();
}

async function stop() {
  server.close();
  server.closeIdleConnections();
  setTimeout(() => server.closeAllConnections(), 1000).unref();
  await new Promise((resolve) => server.on("close", resolve));
  process.exit(0);
}

process.on("SIGTERM", stop);

await Promise.all([catalog.listen(), catalog.introspection(), rest.init(), auth.init()]);
server.listen(options.port, "127.0.0.1", () => {
  origin = `http://127.0.0.1:${server.address().port}`;
  console.log(`api ready on ${origin}`);
});
server.on("error", (error) => {
  console.error(`api cannot listen: ${error.message}`);
  process.exit(1);
});
