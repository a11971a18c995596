// Cross-origin requests of browsers: one answer for REST, Auth, Realtime, unknown paths and errors, as the gateway of a
// hosted project gives it. What lite and Realtime answer themselves is replaced.

const ANY_ORIGIN = { "access-control-allow-origin": "*" };

// Headers that scripts may read: those that PostgREST and Auth expose.
const EXPOSED = [
  ...["Content-Encoding", "Content-Location", "Content-Range", "Content-Type", "Date", "Link", "Location"],
  ...["Preference-Applied", "Range-Unit", "Server", "Transfer-Encoding", "X-Supabase-Api-Version", "X-Total-Count"],
].join(", ");

const METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT";
const MAX_AGE_S = "3600";

// Allowed even if the browser does not ask for them; what it asks for is always allowed.
const REQUEST_HEADERS = [
  ...["accept", "accept-profile", "apikey", "authorization", "content-profile", "content-type", "prefer", "range"],
  ...["range-unit", "x-client-info", "x-region", "x-retry-count", "x-supabase-api-version"],
];

/** Whether a browser asks for permission to send a request to another origin. */
export function isPreflight({ method, headers }) {
  return method === "OPTIONS" && ("origin" in headers || "access-control-request-method" in headers);
}

/** Permit what the browser asks for. */
export function answerPreflight(incoming, outgoing) {
  const asked = (incoming.headers["access-control-request-headers"] ?? "").toLowerCase().split(",");
  const allowed = new Set([...REQUEST_HEADERS, ...asked.map((name) => name.trim()).filter(Boolean)]);
  outgoing.writeHead(200, {
    ...ANY_ORIGIN,
    "access-control-allow-methods": METHODS,
    "access-control-allow-headers": [...allowed].join(","),
    "access-control-max-age": MAX_AGE_S,
    "content-length": 0,
    vary: "Access-Control-Request-Headers",
  });
  outgoing.end();
}

/** The headers of an answer, an object or pairs, with those that let scripts of any origin read it. */
export function readableAnywhere(headers) {
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers);
  return [
    ...pairs.filter(([name]) => !name.toLowerCase().startsWith("access-control-")),
    ...Object.entries({ ...ANY_ORIGIN, "access-control-expose-headers": EXPOSED }),
  ].flat();
}
