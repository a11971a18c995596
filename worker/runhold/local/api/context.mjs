// What PostgREST sets at the start of every transaction: role, that role's settings, claims and the request.

import { quoteLiteral } from "./quote.mjs";

/** The settings as an object. `settings` are the called function's own. */
export async function contextSettings(catalog, { role, claims, request, settings = {} }) {
  return {
    ...(await catalog.roleSettings(role)),
    ...settings,
    "request.jwt.claims": JSON.stringify(claims),
    "request.method": request?.method ?? "",
    "request.path": request?.path ?? "",
    "request.headers": JSON.stringify(request?.headers ?? {}),
    role, // last: from here on it is the role that must have the right
  };
}

/** One statement that makes the settings, until the end of the transaction. */
export function contextStatement(settings) {
  const calls = Object.entries(settings).map(
    ([name, value]) => `set_config(${quoteLiteral(name)}, ${quoteLiteral(String(value))}, true)`,
  );
  return `select ${calls.join(", ")}`;
}
